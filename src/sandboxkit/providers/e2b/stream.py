"""The standard streams of a program, over E2B's process service."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import anyio

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import ConnectionLostError
from sandboxkit.providers.base import ByteChannel, Command, Encoding, Output

if TYPE_CHECKING:
    from e2b import AsyncCommandHandle, AsyncCommandInputHandle, AsyncSandbox

log = logging.getLogger(__name__)

START_S: Final = 30.0
_CALL_S: Final = 10.0
_CLOSE_S: Final = 2.0  # each for letting the input end, for the kill, and for the streams
_PIECE: Final = 128 * 1024
_QUEUED: Final = 64  # pieces, of 32 KiB at most
# As Go, in which E2B's daemon is written, names them.
_SIGNALS: Final = {
    "hangup": 1,
    "interrupt": 2,
    "quit": 3,
    "illegal instruction": 4,
    "trace/breakpoint trap": 5,
    "aborted": 6,
    "bus error": 7,
    "floating point exception": 8,
    "killed": 9,
    "user defined signal 1": 10,
    "segmentation fault": 11,
    "user defined signal 2": 12,
    "broken pipe": 13,
    "alarm clock": 14,
    "terminated": 15,
}
# E2B runs a line by a login shell, whose profile sets PATH anew, and more if it likes. So
# the environment that the shell was given is taken up again, variable by variable; then
# the program takes the shell's place. It may gain no privileges: E2B's images let their
# user become root by sudo.
_LINE: Final = (
    "set -- {argv}; "
    'while IFS= read -r -d "" sandboxkit_; do export "$sandboxkit_"; done '
    "2>/dev/null </proc/$$/environ; unset sandboxkit_; "
    'command -v setpriv >/dev/null && exec setpriv --no-new-privs -- "$@"; exec -- "$@"'
)


def command_line(argv: Sequence[str]) -> str:
    """The line that becomes a program, with its arguments and environment verbatim."""
    return _LINE.format(argv=shlex.join(argv))


def exit_code(code: int, error: str | None) -> int | None:
    """A signal as its negative number; None where E2B does not say which."""
    if code >= 0:
        return code
    name = (error or "").removeprefix("signal: ").removesuffix(" (core dumped)")
    return -_SIGNALS[name] if name in _SIGNALS else None


class CommandChannel(ByteChannel):
    """One program's stdin, stdout and stderr. Made by `open`.

    The SDK gives text, in which what is not UTF-8 is lost: so lines of ASCII.
    """

    encoding: Encoding = "text_lines"

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._commands = sandbox.commands
        self._sandbox_id = sandbox.sandbox_id
        self._handle: AsyncCommandHandle[None]
        self._watching: asyncio.Task[None]
        self._pieces: asyncio.Queue[Output | None] = asyncio.Queue(_QUEUED)
        self._over = asyncio.Event()  # the program has ended, or nobody can say any more
        self._exit_code: int | None = None
        self._failure: Exception | None = None
        self._output_ended = False
        self._sending = asyncio.Lock()
        self._input: AsyncCommandInputHandle | None = None
        self._ending_input: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls, sandbox: AsyncSandbox, command: Command, user: str | None
    ) -> CommandChannel:
        """Start the program. If this is cancelled, it may run, and nobody knows its number."""
        channel = cls(sandbox)
        channel._handle = await sandbox.commands.run(
            command_line(command.argv),
            background=True,
            envs=dict(command.env),
            user=user,
            cwd=command.cwd,
            stdin=True,
            on_stdout=channel._on_stdout,
            on_stderr=channel._on_stderr,
            timeout=0,  # any other ends the program, and in the SDK may cancel its caller
            request_timeout=START_S,
            retain_output=False,
        )
        channel._watching = asyncio.create_task(channel._watch())
        return channel

    # output

    async def _on_stdout(self, text: str) -> None:
        await self._put(1, text)

    async def _on_stderr(self, text: str) -> None:
        await self._put(2, text)

    async def _put(self, fd: Literal[1, 2], text: str) -> None:
        """Called by the SDK's own task, which reads on only when this returns."""
        await self._pieces.put(Output(fd, text.encode()))

    async def _watch(self) -> None:
        from e2b import CommandExitException

        try:
            await self._handle.wait()
            self._exit_code = 0
        except CommandExitException as error:
            self._exit_code = exit_code(error.exit_code, error.error)
        except Exception as error:  # noqa: BLE001 - whatever it is, `receive` tells of it
            self._failure = error
        self._over.set()
        await self._pieces.put(None)

    async def receive(self) -> Output | None:
        """The next piece of output; see `ByteChannel.receive`."""
        while not self._output_ended:
            piece = await self._pieces.get()
            if piece is not None:
                return piece
            self._output_ended = True
        if self._failure is not None:
            raise self._lost("while receiving from it") from self._failure
        return None

    async def wait(self) -> int | None:
        """The exit code as E2B tells it; None once the connection is lost or closed."""
        await self._over.wait()
        return self._exit_code

    # input

    async def send(self, data: bytes) -> None:
        """Queue for stdin; what has not arrived when the connection breaks is lost."""
        async with self._sending:
            if self._ending_input is not None or self._closed:
                raise self._lost("because its stdin is closed")
            try:
                if self._input is None:
                    self._input = self._commands.stream_input(self._handle.pid, timeout=0)
                for at in range(0, len(data), _PIECE):
                    await self._input.send(data[at : at + _PIECE])
            except Exception as error:
                raise self._lost("while sending to it") from error

    async def send_eof(self) -> None:
        """Close stdin, once all that was sent has been written."""
        async with self._sending:
            if self._ending_input is None:
                self._ending_input = asyncio.create_task(self._end_input())

    async def _end_input(self) -> None:
        try:
            if self._input is not None:
                await self._input.close()
            await self._commands.close_stdin(self._handle.pid, request_timeout=_CALL_S)
        except Exception as error:  # noqa: BLE001 - it is gone, and so is its stdin
            log.debug("the end of a program's input was not told: %s", error)

    # the end

    async def aclose(self) -> None:
        """End the program: E2B would throw its output away, and has no other way."""
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            if self._ending_input is not None:
                await asyncio.wait({self._ending_input}, timeout=_CLOSE_S)
            if not self._over.is_set():
                with anyio.move_on_after(_CLOSE_S):
                    await self._kill()
            with anyio.move_on_after(_CLOSE_S):
                await self._handle.disconnect()
            await cancel_and_wait(self._watching, self._ending_input)
        if not self._over.is_set():
            self._failure = self._failure or RuntimeError("closed")
            self._over.set()
        while not self._pieces.empty():
            self._pieces.get_nowait()
        self._pieces.put_nowait(None)  # whoever waits in `receive`

    async def _kill(self) -> None:
        try:
            await self._commands.kill(self._handle.pid, request_timeout=_CLOSE_S)
            if self._input is not None:
                await self._input.close()
        except Exception as error:  # noqa: BLE001 - the sandbox, or the network, is gone
            log.debug("a program was not ended: %s", error)

    def _lost(self, how: str) -> ConnectionLostError:
        return ConnectionLostError(
            f"The connection to the program was lost {how}. What it does now is not known.",
            provider="e2b",
            sandbox_id=self._sandbox_id,
        )
