"""A process that goes on between the calls of an agent; its output is kept until it is read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import SandboxError

if TYPE_CHECKING:
    from sandboxkit.channel.process import OutputStream, Process

_KEPT: Final = 1024 * 1024  # bytes of each stream that wait to be read
_DRAIN_S: Final = 0.5  # after the exit, for output that a child of it still holds
_END_S: Final = 15.0


class Unread:
    """What has been written and not yet read: the latest of it, at most 1 MiB."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._lost = 0

    def __bool__(self) -> bool:
        return bool(self._kept)

    def add(self, data: bytes) -> None:
        """Keep more; the oldest goes when it is too much."""
        self._kept += data
        if (over := len(self._kept) - _KEPT) > 0:
            del self._kept[:over]
            self._lost += over

    def take(self) -> tuple[bytes, int]:
        """All that waits, and how many bytes before it were lost."""
        taken = bytes(self._kept), self._lost
        self._kept.clear()
        self._lost = 0
        return taken


class Background:
    """A running process, drained all the time so that it never waits for a reader.

    Attributes:
        command: As the agent gave it.
        process: The process.
        stdout: What it wrote since the last reading.
        stderr: Likewise.
        over: Whether it has ended and all its output is here.
        watch: The task that drains it, to be cancelled when the sandbox is left.
    """

    def __init__(self, process: Process, command: str) -> None:
        self.process = process
        self.command = command
        self.stdout, self.stderr = Unread(), Unread()
        self.over = False
        self._failure: SandboxError | None = None
        self._news = asyncio.Event()
        self.watch = asyncio.ensure_future(self._follow())

    async def wait(self, seconds: float) -> None:
        """Wait until there is output, or it has ended, or the time is over.

        Raises:
            SandboxError: The sandbox or the connection was lost.
        """
        with anyio.move_on_after(seconds):
            while not (self.stdout or self.stderr or self.over):
                self._news.clear()
                await self._news.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self, grace_s: float) -> None:
        """End it and all that it started: TERM, the grace, KILL.

        Raises:
            SandboxError: The sandbox or the connection was lost.
        """
        await self.process.kill(grace_s)
        with anyio.move_on_after(_END_S):
            await asyncio.wait({self.watch})
        if self._failure is not None:
            raise self._failure

    async def _follow(self) -> None:
        pumps = [
            asyncio.ensure_future(self._pump(self.process.stdout, self.stdout)),
            asyncio.ensure_future(self._pump(self.process.stderr, self.stderr)),
        ]
        try:
            await self.process.wait()
            await asyncio.wait(pumps, timeout=_DRAIN_S)
        except SandboxError as error:
            self._failure = error
        finally:
            await cancel_and_wait(*pumps)
            self.over = True
            self._news.set()

    async def _pump(self, stream: OutputStream, unread: Unread) -> None:
        with contextlib.suppress(SandboxError):  # `_follow` hears of it as well
            async for data in stream:
                unread.add(data)
                self._news.set()
