"""The standard streams of one program: input by calls, output by the log of its session."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import (
    ConnectionLostError,
    ProviderUnavailableError,
    SandboxError,
    UnsupportedError,
)
from sandboxkit.providers.base import ByteChannel, Encoding, Output
from sandboxkit.providers.daytona.command import Script
from sandboxkit.providers.daytona.failures import PROVIDER, map_errors
from sandboxkit.providers.daytona.log import LogReader
from sandboxkit.providers.daytona.program import Program

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse

log = logging.getLogger(__name__)

GUEST_LOG: Final = 64 * 1024 * 1024
"""Bytes of its log after which a connection of the guest is given up for a new one.

The service keeps all output of a session on the sandbox's disk, and sends it again from
the beginning whenever its log is taken up anew. The guest does not notice a change.
"""
_PIECE: Final = 48 * 1024  # bytes of input in one call: the program's pipe holds 64 KiB
_AHEAD: Final = 1024 * 1024  # bytes of output that are read before anybody asks for them
_MOST: Final = 1024 * 1024  # bytes that `receive` returns at once
_ATTEMPTS: Final = 4  # to take the log up again, without a byte in between
_PAUSE_S: Final = 0.1
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 1.0
_CLOSE_S: Final = 1.0
_NO_SHELL: Final = 126  # and above: it could not be started, or a signal has ended it


class SessionChannel(ByteChannel):
    """One program's stdin, stdout and stderr.

    Args:
        program: It.
        script: How it was started.
        limit: Bytes of log after which the connection counts as lost; None is no limit.
    """

    encoding: Encoding = "text_lines"

    def __init__(self, program: Program, script: Script, limit: int | None) -> None:
        self._program = program
        self._eof = script.eof
        self._limit = limit
        self._reader = LogReader(script.end)
        self._writing = asyncio.Lock()
        self._input_ended = False
        self._closed = False
        self._seen = 0  # bytes of the log
        self._ready: deque[Output] = deque()
        self._ahead = 0
        self._changed = asyncio.Event()  # there is output, or there will be none
        self._taken = asyncio.Event()
        self._failure: SandboxError | None = None
        self._follower = asyncio.create_task(self._follow(), name="sandboxkit-daytona-log")

    # input

    async def send(self, data: bytes) -> None:
        """Write whole lines to stdin; a call that is cancelled may have written a part.

        Raises:
            UnsupportedError: It is not lines of text: the service can carry nothing else.
        """
        if self._input_ended:
            raise self._lost("The program's stdin is closed")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text or not text.endswith("\n"):
            raise UnsupportedError(
                "Daytona carries only whole lines of text to a program's stdin",
                op="spawn",
                provider=PROVIDER,
                sandbox_id=self._program.sandbox_id,
            )
        await self.write(text)

    async def write(self, text: str) -> None:
        """`send`, for what need not be ASCII."""
        async with self._writing:
            for piece in _pieces(text):
                try:
                    await self._program.send(piece)
                except SandboxError as error:
                    raise self._lost("while sending to it", error) from error

    async def send_eof(self) -> None:
        """End stdin; where that cannot be told the program, end the program."""
        if self._input_ended:
            return
        self._input_ended = True
        if self._eof is None:
            await self._program.end()
            return
        try:
            await self.write(self._eof)
        except ConnectionLostError:
            return  # it is gone, and so is its stdin: `receive` says why

    # output

    async def receive(self) -> Output | None:
        """The next piece of output; see `ByteChannel.receive`."""
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._closed or self._follower.done():
                return None
            self._changed.clear()
            await self._changed.wait()
        fd, size = self._ready[0].fd, 0
        pieces: list[bytes] = []
        while self._ready and self._ready[0].fd == fd:
            size += len(self._ready[0].data)
            if pieces and size > _MOST:
                break
            pieces.append(self._ready.popleft().data)
        data = b"".join(pieces)
        self._ahead -= len(data)
        self._taken.set()
        return Output(fd, data)

    async def _follow(self) -> None:
        """Read the log to its end, over as many connections as that takes."""
        try:
            attempts, seen = 0, self._seen
            while not await self._read_log():
                attempts, seen = (attempts + 1 if seen == self._seen else 1), self._seen
                if attempts > _ATTEMPTS:
                    raise self._lost("while receiving from it")
                await anyio.sleep(_PAUSE_S * 2**attempts)
        except ConnectionLostError as error:
            self._failure = error
        except SandboxError as error:
            self._failure = self._lost("while receiving from it", error)
        except Exception as error:  # whatever it is, nobody may take it for the end
            log.exception("the log of a program could not be read")
            self._failure = self._lost(f"because of {error!r}")
        finally:
            self._changed.set()

    async def _read_log(self) -> bool:
        """Read one connection to its end; whether that was the end of the output.

        Our end marks tell. Without them it is the end if the service says so of a program
        whose shell was killed or has started nothing, and a second look agrees.

        Raises:
            ConnectionLostError: The program's shell has ended with its marks, and they are
                not in the log: neither is what stood before them.
        """
        before = self._seen
        try:
            await self._read_connection()
        except ProviderUnavailableError as error:
            log.debug("the log of a program was cut: %s", error)
            return False
        if self._reader.finished:
            return True
        code = await self._program.exit_code()
        if code is None or self._seen != before:
            return False
        if code < _NO_SHELL:
            raise self._lost("before the end of its output, which the service has not kept")
        return True

    async def _read_connection(self) -> None:
        """Read until the service ends the log in so many words, or our end marks come."""
        connection = await self._program.log()
        skip = self._seen  # it begins at the beginning again
        try:
            with map_errors("output", "its log", self._program.sandbox_id):
                while (data := await _next(connection)) is not None:
                    new, skip = data[skip:], max(0, skip - len(data))
                    await self._take(new)
                    if self._reader.finished:
                        return
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await connection.close()

    async def _take(self, data: bytes) -> None:
        if not data:
            return
        self._seen += len(data)
        for output in self._reader.feed(data):
            self._ready.append(output)
            self._ahead += len(output.data)
        self._changed.set()
        if self._limit is not None and self._seen > self._limit:
            raise self._lost(f"after {self._seen} bytes of log: a fresh one is due")
        while self._ahead > _AHEAD:
            self._taken.clear()
            await self._taken.wait()

    # the end

    async def wait(self) -> int | None:
        """The exit code as the sandbox's shell counts: 128 and the signal that ended it."""
        pause_s = _FIRST_LOOK_S
        while True:
            if self._reader.exit_code is not None:
                return self._reader.exit_code
            if self._closed:
                return None
            try:
                code = await self._program.exit_code()
            except SandboxError:
                return self._reader.exit_code
            if code is not None:
                return code
            await anyio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LAST_LOOK_S)

    async def aclose(self) -> None:
        """Let go of the log; the program is ended, and its log removed, in the background."""
        if self._closed:
            return
        self._closed = self._input_ended = True
        self._changed.set()
        await cancel_and_wait(self._follower)
        self._program.abandon()

    def _lost(self, how: str, error: SandboxError | None = None) -> ConnectionLostError:
        why = "" if error is None else f": {error.message}"
        return ConnectionLostError(
            f"The connection to the program was lost {how}{why}",
            provider=PROVIDER,
            sandbox_id=self._program.sandbox_id,
        )


async def _next(connection: ClientWebSocketResponse) -> bytes | None:
    """The next piece of the log, or None at its end; a connection that breaks is an error."""
    from aiohttp import WSMsgType

    message = await connection.receive()
    if message.type is WSMsgType.BINARY:
        return bytes(message.data)
    if message.type is WSMsgType.TEXT:
        return str(message.data).encode()
    if message.type is WSMsgType.CLOSE and message.data in {None, 1000}:
        return None
    raise ConnectionResetError(f"the log's connection broke: {message.type.name} {message.data}")


def _pieces(text: str) -> list[str]:
    """Whole lines, so many together as fit into the program's pipe."""
    pieces: list[str] = []
    at = 0
    while at < len(text):
        end = len(text)
        if end - at > _PIECE:
            end = text.rfind("\n", at, at + _PIECE) + 1 or text.find("\n", at) + 1
        pieces.append(text[at:end])
        at = end
    return pieces
