"""Programs in a sandbox: what they have said so far, and what was written to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from grpclib import GRPCError, Status

from sandboxkit.errors import SandboxError
from tests.emulators.machines import Machine, MachineGone, Program, StartFailed

_MIB = 1024 * 1024
_PIECE = 256 * 1024
# Small, because the emulator is in the process whose memory the floods of the tests measure.
_UNREAD = 8 * _MIB  # then the program has to wait
_READ_AND_KEPT = 8 * _MIB  # for a client that was cut off and asks again
_CANNOT_START = 126
_KILLED = 137


class OutputLog:
    """The bytes of one stream, which may be read again from an offset."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._start = 0  # offset of the first byte that is kept
        self._sent = 0
        self._ended = False
        self._changed = asyncio.Condition()

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self._start + len(self._kept)

    def _has(self, offset: int) -> bool:
        return self._ended or self.end > offset

    async def write(self, data: bytes) -> None:
        """Append; waits while too much is unread."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.end - self._sent < _UNREAD)
            self._kept += data
            self._changed.notify_all()

    async def close(self) -> None:
        """There will be no more."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def read(self, offset: int) -> AsyncGenerator[bytes]:
        """All bytes from an offset on, as they come."""
        if offset > self.end:
            raise GRPCError(Status.OUT_OF_RANGE, f"offset {offset} is beyond {self.end}")
        while True:
            async with self._changed:
                await self._changed.wait_for(partial(self._has, offset))
                if offset < self._start:
                    raise GRPCError(Status.DATA_LOSS, f"the output before {self._start} is gone")
                at = offset - self._start
                data = bytes(self._kept[at : at + _PIECE])
            if not data:
                return
            offset += len(data)
            yield data
            await self._forget(offset)

    async def _forget(self, sent: int) -> None:
        async with self._changed:
            self._sent = max(self._sent, sent)
            old = self._sent - self._start - _READ_AND_KEPT
            if old > 0:
                del self._kept[:old]
                self._start += old
            self._changed.notify_all()


class Exec:
    """One program.

    Attributes:
        code: Its exit code, once it has ended.
        ended: Whether it has.
        fed: How much of its input has arrived.
        eof: Whether its input has ended.
    """

    def __init__(self, *, keep: tuple[bool, bool] = (True, True)) -> None:
        self.logs = {1: OutputLog(), 2: OutputLog()}
        self.code: int | None = None
        self.ended = asyncio.Event()
        self.fed = 0
        self.eof = False
        self._keep = {1: keep[0], 2: keep[1]}
        self._feeding = asyncio.Lock()
        self._program: Program | None = None

    async def start(
        self, machine: Machine, argv: Sequence[str], env: dict[str, str], cwd: str
    ) -> None:
        """Start it; a program that cannot be started has ended with 126.

        Raises:
            MachineGone: There is no machine any more.
        """
        try:
            self._program = await machine.start(argv, env=env, cwd=cwd)
        except StartFailed as error:
            await self.logs[2].write(str(error).encode())
            await self._end(_CANNOT_START)
        except SandboxError as error:
            raise MachineGone(str(error)) from error

    async def pump(self) -> None:
        """Keep what it says until it ends."""
        program, code = self._program, _KILLED
        if program is None:
            return
        try:
            async for piece in program:
                if self._keep[piece.fd]:
                    await self.logs[piece.fd].write(piece.data)
            code = await program.wait()
        except SandboxError:
            pass  # with its machine
        finally:
            try:
                await self._end(code)
            finally:
                await program.aclose()

    async def _end(self, code: int) -> None:
        self.code = code
        self.ended.set()
        for log in self.logs.values():
            await log.close()

    async def feed(self, offset: int, data: bytes, *, eof: bool) -> None:
        """Write at an offset: what has arrived before is not written again.

        Raises:
            GRPCError: FAILED_PRECONDITION for a gap, or where the input is closed.
        """
        async with self._feeding:
            if offset > self.fed:
                raise GRPCError(
                    Status.FAILED_PRECONDITION, f"offset {offset}, but {self.fed} was expected"
                )
            new = data[self.fed - offset :]
            program = self._program
            if new:
                if self.eof or self.ended.is_set() or program is None:
                    raise GRPCError(
                        Status.FAILED_PRECONDITION, "The stdin of the process is closed"
                    )
                self.fed += len(new)
                await _send(program, new)
            if eof and not self.eof:
                self.eof = True
                if program is not None:
                    await program.send_eof()

    async def kill(self, machine: Machine) -> None:
        """Kill it and its process group."""
        if self._program is not None and not self.ended.is_set():
            pid = self._program.pid
            await machine.run(["sh", "-c", f"kill -9 -{pid} 2>/dev/null || kill -9 {pid}"])


async def _send(program: Program, data: bytes) -> None:
    try:
        await program.send(data)
    except SandboxError as error:
        raise GRPCError(Status.FAILED_PRECONDITION, "The process has closed its stdin") from error
