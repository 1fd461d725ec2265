"""A shell that stays: directory, variables and functions last from command to command."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.agents.messages.tools.excerpt import Excerpt
from sandboxkit.channel.requests import PIPE
from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import SandboxError

if TYPE_CHECKING:
    from sandboxkit.channel.process import Process
    from sandboxkit.sandbox import Sandbox

# Commands write to descriptor 9, so that an `exec >file` among them cannot swallow the mark
# that follows each. What the shell says of itself (`set -x`) has no place in their output.
_START: Final = """\
command -v bash >/dev/null 2>&1 && set -- bash --noprofile --norc || set -- sh
exec "$@" 9>&1 2>/dev/null
"""
_COMMAND: Final = "command eval {command} </dev/null >&9 2>&1 9>&-\n"
_MARK: Final = 'command printf "%s%d\\n" {mark} "$?" >&9\n'
_CODE: Final = 4  # bytes of an exit code and its line's end
_END_S: Final = 30.0
_DRAIN_S: Final = 0.5  # something in the background may hold the output


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did.

    Attributes:
        output: Its standard output and error, as they came.
        exit_code: Its exit code, or the shell's where that has `ended`; None where it was
            ended by the time-out.
        ended: Whether the shell is gone with it, and all that it had started.
        oom_killed: Whether the sandbox ran out of memory.
    """

    output: Excerpt
    exit_code: int | None
    ended: bool = False
    oom_killed: bool = False


class Shell:
    """One shell, bash where there is one; commands follow one another.

    Their input is empty. Output is read also between two commands, so that what runs in the
    background is not held up; it stands before the output of the next one.
    """

    def __init__(self, process: Process, limit: int) -> None:
        self._process = process
        self._limit = limit
        self._excerpt = Excerpt(limit)
        self._pending = bytearray()
        self._mark: bytes | None = None
        self._done: asyncio.Future[Outcome] | None = None
        self._reader = asyncio.ensure_future(self._read())
        self._exit = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, sandbox: Sandbox, limit: int) -> Shell:
        """Start one in the work directory, as the sandbox's user.

        Args:
            sandbox: Where.
            limit: Bytes of output to keep of each command.
        """
        start = sandbox.spawn(["/bin/sh", "-c", _START], stdin=PIPE, passive=True)
        return cls(await start, limit)

    @property
    def ended(self) -> bool:
        """Whether it has left by itself."""
        return self._exit.done()

    async def run(self, command: str, timeout_s: float) -> Outcome:
        """Run a command to its end, or to the time-out, which ends the shell as well.

        Cancelling leaves the command running: `aclose` the shell then.

        Raises:
            SandboxError: The sandbox is lost.
        """
        mark = f"sandboxkit-{secrets.token_hex(16)}:"
        self._mark = mark.encode()
        self._done = asyncio.get_running_loop().create_future()
        line = _COMMAND.format(command=shlex.quote(command)) + _MARK.format(mark=mark)
        with anyio.move_on_after(timeout_s):
            await self._process.stdin.write(line.encode("utf-8", "replace"))
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait((self._done, self._exit), return_when=first)
            if not self._done.done():  # the shell has left; what it wrote may be on its way
                await asyncio.wait((self._done, self._reader), timeout=_DRAIN_S, return_when=first)
                code, oom = self._exit.result(), self._process.oom_killed
                return Outcome(self._taken(), code, ended=True, oom_killed=oom)
            return self._done.result()
        await self.aclose()
        return Outcome(self._taken(), None, ended=True)

    def _taken(self) -> Excerpt:
        self._output(len(self._pending))
        return self._excerpt

    async def _read(self) -> None:
        with contextlib.suppress(SandboxError):  # `wait` says so as well
            async for chunk in self._process.stdout:
                self._feed(chunk)

    def _feed(self, chunk: bytes) -> None:
        self._pending += chunk
        while self._mark is not None and (at := self._pending.find(self._mark)) >= 0:
            behind = at + len(self._mark)
            code, newline, _ = self._pending[behind : behind + _CODE].partition(b"\n")
            if newline and code.isdigit():
                self._finish(at, behind + len(code) + 1, int(code))
            elif not newline and len(self._pending) < behind + _CODE:
                return  # the rest is on its way
            else:  # a command has found it, and plays with it
                self._output(behind)
        # The mark may come in two pieces.
        held = 0 if self._mark is None else len(self._mark) - 1
        self._output(max(0, len(self._pending) - held))

    def _output(self, size: int) -> None:
        self._excerpt.add(bytes(self._pending[:size]))
        del self._pending[:size]

    def _finish(self, at: int, end: int, code: int) -> None:
        self._output(at)
        del self._pending[: end - at]
        if self._done is not None and not self._done.done():
            self._done.set_result(Outcome(self._excerpt, code))
        self._excerpt, self._mark = Excerpt(self._limit), None

    async def aclose(self) -> None:
        """End the shell and all that it started. Idempotent, not cut by cancellation."""
        with contextlib.suppress(TimeoutError):
            await run_to_end(self._close(), deadline_s=_END_S)

    async def _close(self) -> None:
        with contextlib.suppress(SandboxError):
            await self._process.kill(0.0)  # what it started too, where it has left by itself
        await self._process.aclose()
        await cancel_and_wait(self._reader, self._exit)
        if not self._exit.cancelled():
            self._exit.exception()  # seen
