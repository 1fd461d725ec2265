"""Whether a sandbox has a living owner, from all that is known of it. Asks nobody."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sandboxkit.journal.moments import Moment
from sandboxkit.journal.rows import Row
from sandboxkit.providers.info import SandboxInfo
from sandboxkit.reaping.look import Seen
from sandboxkit.spec import IDLE_LABEL, KEY_LABEL, LEASE_LABEL, NAME_LABEL, OWNER_LABEL

LONG_S: Final = 600.0
"""Seconds by which a lease must be past where only the backend's times speak: more than the
longest creation, and than clocks of hosts in one place differ."""

_KEY: Final = re.compile(r"sandboxkit-[0-9a-f]{12}")  # as `ownership.owned` makes it
_LONGEST_LEASE_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a sandbox.

    Attributes:
        do: `keep`, `remove`, or `look`: its guest is to be asked, and then `after_look`.
        why: In a few words.
    """

    do: Literal["keep", "remove", "look"]
    why: str


_STILL: Final[Mapping[str, tuple[str, str]]] = {
    "creating": ("never started, and its host is gone", "it may just be being created"),
    "stopped": ("it has ended, and was left behind", "it has just ended"),
}
"""Why what does not run is removed, and why it is kept."""

_SEEN: Final[Mapping[Seen, Verdict]] = {
    "living": Verdict("keep", "a host holds it, or its lease still runs"),
    "ended": Verdict("remove", "no host has held it for the length of its lease"),
    "unknown": Verdict("keep", "it cannot be asked whether a host holds it"),
}


@dataclass(frozen=True, slots=True)
class Times:
    """What time it is.

    Attributes:
        here: On this machine.
        backend: By the backend's own clock; None where it does not tell.
    """

    here: Moment
    backend: datetime | None


def is_ours(info: SandboxInfo) -> bool:
    """Whether sandboxkit made it: both labels that every creating call sets."""
    key = info.labels.get(KEY_LABEL, "")
    return bool(info.labels.get(OWNER_LABEL)) and bool(_KEY.fullmatch(key))


def judge(info: SandboxInfo, row: Row | None, times: Times, *, paused: bool) -> Verdict:
    """What is to be done, before the guest has been asked.

    Args:
        info: What the backend says.
        row: What the journal says; None without an entry.
        times: What time it is.
        paused: Whether a paused one without an owner is meant, too.
    """
    if not is_ours(info):
        return Verdict("keep", "sandboxkit did not make it")
    held = _held(info, row, times)
    if held is not None:
        return Verdict("keep", held)
    unowned = is_orphan(row) or lease_is_long_past(info, times)
    if info.state == "paused":
        meant = (paused and unowned) or _was_put_to_sleep(info, row, times)
        return _judge_paused(_waits(info, row, times), meant=meant)
    if info.state in _STILL:
        why, why_not = _STILL[info.state]
        return Verdict("remove", why) if unowned else Verdict("keep", why_not)
    return Verdict("look", "")


def _judge_paused(waits: str | None, *, meant: bool) -> Verdict:
    if not meant:
        return Verdict("keep", "paused; `gc --paused` or `rm` removes it")
    return Verdict("keep", waits) if waits else Verdict("remove", "paused, and its host is gone")


def _held(info: SandboxInfo, row: Row | None, times: Times) -> str | None:
    """By whom it is held, as the journal knows; None if by nobody."""
    for hold in row.holds if row is not None else ():
        left_s = times.here.until(hold.until)
        # A process that runs and does not renew its lease may have forgotten this sandbox: its
        # guest is asked. While there is none to ask, the process has the benefit of the doubt.
        if hold.alive and (left_s > 0 or info.state != "running"):
            return f"in use by process {hold.pid}"
        if not hold.holder and left_s > 0:
            return f"kept without a host for {left_s:.0f} s more"
    return None


def _was_put_to_sleep(info: SandboxInfo, row: Row | None, times: Times) -> bool:
    """Whether a session has paused it while it was idle, and is gone for the length of its lease.

    Only that session would have woken it. Its host has renewed the lease in the journal
    until its end; what another machine has paused is not known here.
    """
    if info.labels.get(IDLE_LABEL) != "pause" or row is None or not is_orphan(row):
        return False
    return all(times.here.until(hold.until) <= 0 for hold in row.holds)


def _waits(info: SandboxInfo, row: Row | None, times: Times) -> str | None:
    """Why one that has a name, and no host, is kept: it waits for the next; None if it does not.

    That a process is dead is no reason to remove what shall outlive it.
    """
    if NAME_LABEL not in info.labels:
        return None
    if row is None:
        return "it has a name, and another machine may take it up; `rm` removes it"
    left_s = max((times.here.until(hold.until) for hold in row.holds), default=0.0)
    return f"it has a name, and waits for a host for {left_s:.0f} s more" if left_s > 0 else None


def after_look(info: SandboxInfo, row: Row | None, times: Times, seen: Seen) -> Verdict:
    """What is to be done with one that runs, once its guest has been asked."""
    if seen in _SEEN:
        return _SEEN[seen]
    if row is not None and any(hold.alive for hold in row.holds):
        return Verdict("keep", "in use by a process that has not renewed its lease")
    if row is not None and (waits := _waits(info, row, times)) is not None:
        return Verdict("keep", waits)
    if is_orphan(row):
        return Verdict("remove", "its host is gone")
    if seen == "absent" and lease_is_long_past(info, times):
        return Verdict("remove", "no host has ever used it, and its lease is long past")
    why = "it does not tell whether another machine uses it"
    return Verdict("keep", "it has just ended by itself" if seen == "gone" else why)


def is_orphan(row: Row | None) -> bool:
    """Whether the journal knows it, and that no process that it knows of lives."""
    return row is not None and all(hold.alive is False for hold in row.holds)


def lease_is_long_past(info: SandboxInfo, times: Times) -> bool:
    """Whether it was created so long ago that its lease is over, whatever was slow.

    By the backend's own times alone: when it was created, and what time it is there. That
    somebody has renewed the lease since is not seen: see the guest for that.
    """
    if info.created_at is None or times.backend is None:
        return False
    try:
        lease_s = float(info.labels.get(LEASE_LABEL, ""))
    except ValueError:  # made by an earlier sandboxkit
        lease_s = _LONGEST_LEASE_S
    age = times.backend - info.created_at
    return age > timedelta(seconds=min(lease_s, _LONGEST_LEASE_S) + LONG_S)
