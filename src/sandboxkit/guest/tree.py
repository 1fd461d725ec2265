"""Signals to all that a channel has started, however it hides.

A process leaves its group by setsid and its parent by a double fork, but it carries
the channel's marker in its environment. (Only `env -i` sheds it; then the end of
the sandbox is the remedy.)
"""

from __future__ import annotations

import os
import signal
from typing import List

from .spawn import MARKER, User


def members(marker: str, user: User) -> List[int]:
    """The processes that carry the marker, zombies not among them.

    Reading another user's environment takes that user's identity; the guest has a
    single thread and takes it only for this walk.
    """
    wanted = ("%s=%s" % (MARKER, marker)).encode()
    mine = os.getpid()
    found: List[int] = []
    switch = os.geteuid() == 0 and user.uid != 0
    if switch:
        os.setegid(user.gid)
        os.seteuid(user.uid)
    try:
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == mine:
                continue
            try:
                with open("/proc/%s/environ" % name, "rb") as environ:
                    if wanted in environ.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue
    finally:
        if switch:
            os.seteuid(0)
            os.setegid(0)
    return found


def signal_group(leader: int, number: int) -> None:
    """Signal the group; or its leader alone, if that has not made its group yet."""
    for send in (os.killpg, os.kill):
        try:
            send(leader, number)
        except (ProcessLookupError, PermissionError):
            continue
        return


def signal_all(leader: int, alive: bool, marker: str, user: User, number: int) -> int:
    """Signal the group (if its leader lives) and all marked processes; how many there were.

    Each gets it once: to many a program, a second TERM means to drop everything.
    """
    if alive:
        signal_group(leader, number)
    found = members(marker, user)
    for pid in found:
        try:
            if not (alive and os.getpgid(pid) == leader):  # the group has had it
                os.kill(pid, number)
            if number == signal.SIGTERM:
                os.kill(pid, signal.SIGCONT)  # a stopped process must wake to end
        except (ProcessLookupError, PermissionError):
            continue
    return len(found)
