"""The standard streams of a program, over an SDK whose calls must not be cancelled.

A read that is cancelled loses what it had, and a write during a flush loses what it
adds. So each stream has one task that reads it to its end, and each flush is a task
that nobody cancels, one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sandboxkit.concurrency import cancel_and_wait, seen
from sandboxkit.errors import ConnectionLostError, SandboxError
from sandboxkit.providers.base import ByteChannel, Output
from sandboxkit.providers.exits import code_of
from sandboxkit.providers.modal.failures import PROVIDER, ask

if TYPE_CHECKING:
    import modal
    from modal.container_process import ContainerProcess

_PIECE: Final = 1024 * 1024
_PIECES: Final = 16  # read ahead; a reader that is slower holds the program back
_LOOK_S: Final = 5.0
_CLOSE_S: Final = 2.0


class _End(NamedTuple):
    """A stream is over: read to its end, or broken."""

    error: Exception | None


class ModalChannel(ByteChannel):
    """One program's stdin, stdout and stderr.

    Args:
        sandbox: Where it runs.
        process: It.
    """

    def __init__(self, sandbox: modal.Sandbox, process: ContainerProcess[bytes]) -> None:
        self._sandbox = sandbox
        self._process = process
        self._read: asyncio.Queue[Output | _End] = asyncio.Queue(_PIECES)
        self._pumps = (
            asyncio.create_task(self._pump(1, process.stdout), name="modal-stdout"),
            asyncio.create_task(self._pump(2, process.stderr), name="modal-stderr"),
        )
        self._streams = len(self._pumps)
        self._one_at_a_time = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self._input_ended = False
        self._broken: Exception | None = None

    async def _pump(self, fd: Literal[1, 2], stream: AsyncIterable[bytes]) -> None:
        end = _End(None)
        try:
            async for data in stream:
                for at in range(0, len(data), _PIECE):
                    await self._read.put(Output(fd, data[at : at + _PIECE]))
        except Exception as error:  # noqa: BLE001 - `receive` tells it, whatever it is
            end = _End(error)
        await self._read.put(end)

    async def receive(self) -> Output | None:
        """The next piece of output; see `ByteChannel.receive`."""
        while self._streams:
            if self._broken is not None:
                raise self._lost("while receiving from it") from self._broken
            read = await self._read.get()
            if isinstance(read, Output):
                return read
            self._streams -= 1
            self._broken = read.error or self._broken
        if self._broken is not None:
            raise self._lost("while receiving from it") from self._broken
        return None

    async def send(self, data: bytes) -> None:
        """Write to stdin; a call that is cancelled may have written a part."""
        if self._input_ended:
            raise self._lost("because its stdin is closed")
        for at in range(0, len(data), _PIECE):
            await self._flush(data[at : at + _PIECE])

    async def send_eof(self) -> None:
        """Close stdin; the output goes on."""
        if self._input_ended:
            return
        self._input_ended = True
        with contextlib.suppress(ConnectionLostError):  # gone, and so is its stdin
            await self._flush(None)

    async def _flush(self, data: bytes | None) -> None:
        """Write a piece, or the end of the input, in a task that is not cancelled."""
        writing = asyncio.create_task(self._write(data), name="modal-stdin")
        self._writes.add(writing)
        writing.add_done_callback(self._written)
        await asyncio.shield(writing)

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writes.discard(writing)
        seen(writing)  # where the caller has gone, the next one is told

    async def _write(self, data: bytes | None) -> None:
        async with self._one_at_a_time:
            stdin = self._process.stdin
            try:
                if data is None:
                    stdin.write_eof()
                else:
                    stdin.write(data)
                await stdin.drain.aio()
            except Exception as error:
                # What was not taken stays in the SDK's buffer: nothing may follow it.
                self._input_ended = True
                raise self._lost("while sending to it") from error

    async def wait(self) -> int | None:
        """The exit code, unless the sandbox ends first: then nobody knows it any more."""
        waiting = asyncio.ensure_future(self._process.wait.aio())
        try:
            while not (await asyncio.wait({waiting}, timeout=_LOOK_S))[0]:
                ended = await ask("look", self._sandbox.poll.aio(), deadline_s=_LOOK_S)
                if ended is not None:
                    return None
            code = waiting.result()
        except Exception:  # noqa: BLE001 - whatever the SDK says, the code is not known
            return None
        finally:
            await cancel_and_wait(waiting)
        # The SDK's word for a time-out is -1; we set none.
        return None if code < 0 else code_of(code)

    async def aclose(self) -> None:
        """End the input, so that the program sees that nobody is there; stop reading."""
        with contextlib.suppress(SandboxError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.send_eof()
        ending = asyncio.ensure_future(cancel_and_wait(*self._pumps, *self._writes))
        await asyncio.wait({ending}, timeout=_CLOSE_S)

    def _lost(self, how: str) -> ConnectionLostError:
        return ConnectionLostError(
            f"The connection to the program was lost {how}. What it does now is not known.",
            provider=PROVIDER,
            sandbox_id=self._sandbox.object_id,
        )
