"""The standard streams of a program in a container, over a hijacked connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import anyio

from sandboxkit.errors import ConnectionLostError, ProviderUnavailableError
from sandboxkit.providers.base import ByteChannel, Output
from sandboxkit.providers.docker.connection import READ

if TYPE_CHECKING:
    from anyio.abc import ByteStream

_HEADER: Final = 8  # bytes: stream, three zeros, big-endian length
_SYSTEM_ERROR: Final = 3
_CLOSE_S = 4.0
_FIRST_LOOK_S, _LAST_LOOK_S = 0.005, 0.25


class Outcome(NamedTuple):
    """What the engine knows of a program: `lost` is running or not, nobody can say."""

    state: Literal["running", "ended", "lost"]
    exit_code: int | None = None


class FrameError(Exception):
    """The bytes are not Docker's frames."""


class Demultiplexer:
    """Docker's frames to pieces of stdout and stderr, whatever way the bytes are cut."""

    def __init__(self) -> None:
        self._header = b""
        self._fd = 1
        self._left = 0  # bytes of the current frame still to come

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._header or self._left)

    def feed(self, data: bytes) -> list[Output]:
        """The output in `data`; neighbouring frames of one stream become one piece.

        Raises:
            FrameError: The bytes are not frames, or carry an error of the engine.
        """
        pieces: list[tuple[int, list[memoryview]]] = []
        view, position, size = memoryview(data), 0, len(data)
        while position < size:
            if not self._left:
                taken = view[position : position + _HEADER - len(self._header)]
                self._header += bytes(taken)
                position += len(taken)
                if len(self._header) == _HEADER:
                    self._begin()
                continue
            piece = view[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            if pieces and pieces[-1][0] == self._fd:
                pieces[-1][1].append(piece)
            else:
                pieces.append((self._fd, [piece]))
        return [_output(fd, parts) for fd, parts in pieces]

    def _begin(self) -> None:
        self._fd = self._header[0]
        if self._fd > _SYSTEM_ERROR or self._header[1:4] != b"\0\0\0":
            raise FrameError(f"not a frame: {self._header!r}")
        self._left = int.from_bytes(self._header[4:], "big")
        self._header = b""


def _output(fd: int, parts: list[memoryview]) -> Output:
    data = b"".join(parts)
    if fd == _SYSTEM_ERROR:
        raise FrameError(data.decode(errors="replace")[:500])
    return Output(2 if fd == 2 else 1, data)


class HijackedChannel(ByteChannel):
    """One program's stdin, stdout and stderr.

    Args:
        connection: The hijacked connection.
        first: Bytes that came with the response's head.
        look: Asks the engine what has become of the program.
        sandbox_id: For messages.
    """

    def __init__(
        self,
        connection: ByteStream,
        first: bytes,
        look: Callable[[], Awaitable[Outcome]],
        sandbox_id: str,
    ) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id
        self._frames = Demultiplexer()
        self._undecoded = first
        self._ready: deque[Output] = deque()
        self._look = look
        self._input_ended = self._output_ended = False

    async def send(self, data: bytes) -> None:
        """Write to stdin; a call that is cancelled may have written a part."""
        if self._input_ended:
            raise ConnectionLostError(
                "The program's stdin is closed.", provider="docker", sandbox_id=self._sandbox_id
            )
        try:
            await self._connection.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise self._lost("while sending to it") from error

    async def send_eof(self) -> None:
        """Close stdin; the output goes on."""
        if self._input_ended:
            return
        self._input_ended = True
        try:
            await self._connection.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            return  # it is gone, and so is its stdin: `receive` says why

    async def receive(self) -> Output | None:
        """The next piece of output; see `ByteChannel.receive`."""
        while not self._ready:
            if self._output_ended:
                await self._check_end()
                return None
            if not self._undecoded:
                self._undecoded = await self._more()
            # From here on nothing waits, so that cancellation can lose no byte.
            data, self._undecoded = self._undecoded, b""
            try:
                self._ready.extend(self._frames.feed(data))
            except FrameError as error:
                raise self._lost(f"because the engine said: {error}") from error
        return self._ready.popleft()

    async def _more(self) -> bytes:
        try:
            return await self._connection.receive(READ)
        except anyio.EndOfStream:
            self._output_ended = True
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise self._lost("while receiving from it") from error

    async def _check_end(self) -> None:
        """Docker ends a stream in one way, be it the program, the engine or the network."""
        if self._frames.inside:
            raise self._lost("in the middle of its output")
        try:
            outcome = await self._look()
        except ProviderUnavailableError as error:
            raise self._lost("and the engine is gone") from error
        if outcome.state == "lost":
            raise self._lost("and the engine does not know it any more")

    async def wait(self) -> int | None:
        """The exit code as the engine knows it; the end of the output says nothing."""
        pause_s = _FIRST_LOOK_S
        while True:
            try:
                outcome = await self._look()
            except ProviderUnavailableError:
                return None
            if outcome.state != "running":
                return outcome.exit_code
            await anyio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LAST_LOOK_S)

    async def aclose(self) -> None:
        """Close the connection. The program sees the end of its stdin."""
        self._input_ended = True
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await self._connection.aclose()

    def _lost(self, how: str) -> ConnectionLostError:
        return ConnectionLostError(
            f"The connection to the program was lost {how}. What it does now is not known.",
            provider="docker",
            sandbox_id=self._sandbox_id,
        )
