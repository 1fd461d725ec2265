"""One process of this machine at a time for a name: a lock that the kernel lets go of.

What was made under a name last is written into the lock's file: a backend may list a new
sandbox by its labels only after a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from sandboxkit.concurrency import obtain, run_to_end
from sandboxkit.journal.journal import VARIABLE
from sandboxkit.state_directory import state_directory

log = logging.getLogger(__name__)

_STEP_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 0.1
_MODE: Final = 0o600
_KEY_BYTES: Final = 256

_held: set[int] = set()


class Alone:
    """The lock of one name, held; without a file it keeps nothing, and nobody out.

    Attributes:
        key: The key of the sandbox that was made under this name last; empty if none was.
    """

    def __init__(self, path: Path | None = None, fd: int = -1) -> None:
        self._path, self._fd = path, fd
        self.key = "" if path is None else os.pread(fd, _KEY_BYTES, 0).decode("ascii", "replace")

    async def remember(self, key: str) -> None:
        """A sandbox with this key has been made under the name."""
        self.key = key
        if self._path is not None:
            await anyio.to_thread.run_sync(self._write, key.encode())

    def _write(self, data: bytes) -> None:
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, data, 0)
        except OSError as error:  # the labels at the backend remain
            log.warning("%s cannot be written: %s", self._path, error)

    async def forget(self) -> None:
        """Nothing has this name any more: its file goes."""
        self.key = ""
        if self._path is not None:
            with contextlib.suppress(OSError):
                await anyio.to_thread.run_sync(os.unlink, self._path)

    def release(self) -> None:
        """Let the next one in."""
        if self._fd in _held:
            _held.discard(self._fd)
            os.close(self._fd)


@contextlib.asynccontextmanager
async def alone(owner: str, name: str) -> AsyncGenerator[Alone]:
    """Wait until no other process of this machine looks for, or makes, what has this name.

    A holder that is killed holds it no longer. Where there is no directory for it, nobody is
    kept out, and the log says so: what is decided at the backend remains.

    Args:
        owner: Whose the name is.
        name: The name.
    """
    digest = hashlib.sha256(f"{owner}\n{name}".encode()).hexdigest()[:32]
    try:
        lock = await _wait_for(_directory() / digest)
    except (OSError, RuntimeError) as error:
        log.warning("nobody is kept from making another session %r meanwhile: %s", name, error)
        lock = Alone()
    try:
        yield lock
    finally:
        await run_to_end(_release(lock), deadline_s=_STEP_S)


async def _wait_for(path: Path) -> Alone:
    pause_s = 0.005
    while True:
        lock = await obtain(_attempt(path), release=_release, deadline_s=_STEP_S)
        if lock is not None:
            return lock
        await anyio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


async def _attempt(path: Path) -> Alone | None:
    return await anyio.to_thread.run_sync(_try, path)


async def _release(lock: Alone | None) -> None:
    if lock is not None:
        await anyio.to_thread.run_sync(lock.release)


def _try(path: Path) -> Alone | None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino != path.stat().st_ino:
            raise BlockingIOError  # its name was forgotten: another file has this one's place
        lock = Alone(path, fd)
    except (BlockingIOError, FileNotFoundError):
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    _held.add(fd)
    return lock


def _directory() -> Path:
    """Beside the journal; see `sandboxkit.journal`."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen and chosen != "off":
        return Path(chosen + ".names").expanduser().absolute()
    return state_directory() / "names"


def _forget() -> None:
    """A forked child is a process of its own, and must not hold its parent's locks."""
    for fd in _held:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
