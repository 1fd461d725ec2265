"""Which processes live: each holds a lock, which the kernel lets go of at its end.

Unlike a process number, a lock is not used again, does not depend on a clock, and is seen
from any container that shares the directory.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import secrets
import threading
from pathlib import Path
from typing import Final

_MODE: Final = 0o600
_lock = threading.Lock()
_ours: dict[Path, tuple[str, int]] = {}


def holder(directory: Path) -> str:
    """The name of this process's lock in `directory`, which is made when first asked for.

    Raises:
        OSError: It cannot be made.
    """
    with _lock:
        if directory not in _ours:
            _ours[directory] = _make(directory)
        return _ours[directory][0]


def _make(directory: Path) -> tuple[str, int]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = secrets.token_hex(8)
    # It appears under its name when it is locked already: whoever sees it can trust it.
    hidden = directory / f".{name}"
    fd = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(directory / name)
    except BaseException:
        os.close(fd)
        hidden.unlink(missing_ok=True)
        raise
    return name, fd


def lives(directory: Path, name: str) -> bool:
    """Whether the process of this lock lives. The lock of a dead one is removed.

    Raises:
        OSError: It cannot be told.
    """
    with _lock:
        if _ours.get(directory, ("", 0))[0] == name:
            return True
    path = directory / name
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(fd)


def sweep(directory: Path) -> None:
    """Remove the locks of all dead processes, also of those that nothing asks for any more.

    Raises:
        OSError: The directory cannot be read.
    """
    for path in directory.glob("[!.]*"):
        lives(directory, path.name)


def _leave() -> None:
    """At the end of the program. A lock that is not there is of a process that does not live."""
    for directory, (name, _fd) in _ours.items():
        with contextlib.suppress(OSError):
            (directory / name).unlink(missing_ok=True)


def _forget() -> None:
    """A forked child is a process of its own; its parent's locks stay the parent's."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    for _name, fd in _ours.values():
        with contextlib.suppress(OSError):
            os.close(fd)
    _ours.clear()


atexit.register(_leave)
os.register_at_fork(after_in_child=_forget)
