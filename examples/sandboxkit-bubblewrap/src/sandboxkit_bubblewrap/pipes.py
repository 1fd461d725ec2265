"""A program on this machine, as the byte channel that sandboxkit wants."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from typing import IO, Any, Self, cast

import anyio
from anyio.to_thread import run_sync

from sandboxkit.errors import ConnectionLostError
from sandboxkit.providers.base import ByteChannel, Output

_POLL_S = 0.01
_CLOSE_S = 3.0
_MOST = 256 * 1024  # bytes in one piece of output


class Pipes(ByteChannel):
    """The three pipes of a program. Not made by its constructor, but by `start`."""

    def __init__(self, program: subprocess.Popen[bytes]) -> None:
        self._program = program
        self._transports: list[asyncio.BaseTransport] = []
        self._outputs: dict[int, asyncio.StreamReader] = {}
        self._reads: dict[asyncio.Task[bytes], int] = {}  # under way, whoever is cancelled

    @classmethod
    async def start(
        cls, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int] = ()
    ) -> Self:
        """Start a program, in a session of its own, which is given the descriptors `fds`."""

        def start() -> subprocess.Popen[bytes]:
            pipe = subprocess.PIPE
            return subprocess.Popen(
                argv,
                bufsize=0,
                cwd="/",
                env=env,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                pass_fds=fds,
                start_new_session=True,
            )

        self = cls(await run_sync(start))
        await self._connect()
        return self

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for fd, pipe in ((1, self._program.stdout), (2, self._program.stderr)):
            reader = self._outputs[fd] = asyncio.StreamReader(limit=_MOST)
            read = partial(asyncio.StreamReaderProtocol, reader)
            transport, _ = await loop.connect_read_pipe(read, cast("IO[bytes]", pipe))
            self._transports.append(transport)
        write = partial(asyncio.StreamReaderProtocol, asyncio.StreamReader())
        stdin = cast("IO[bytes]", self._program.stdin)
        into, protocol = await loop.connect_write_pipe(write, stdin)
        self._stdin = asyncio.StreamWriter(into, cast("Any", protocol), None, loop)

    async def send(self, data: bytes) -> None:
        try:
            self._stdin.write(data)
            await self._stdin.drain()
        except OSError as error:
            raise ConnectionLostError(f"the program has gone: {error}") from error

    async def send_eof(self) -> None:
        self._stdin.close()

    async def heading(self, end: bytes) -> bytes:
        """What is said on stderr up to `end`; only before the first `receive`.

        Raises:
            EOFError: stderr ended before; with all that was said.
        """
        try:
            return (await self._outputs[2].readuntil(end)).removesuffix(end)
        except asyncio.IncompleteReadError as error:
            raise EOFError(error.partial.decode(errors="replace").strip()) from None

    async def receive(self) -> Output | None:
        for fd, reader in self._outputs.items():
            if fd not in self._reads.values() and not reader.at_eof():
                self._reads[asyncio.create_task(reader.read(_MOST))] = fd
        while self._reads:
            done, _ = await asyncio.wait(self._reads, return_when=asyncio.FIRST_COMPLETED)
            task = done.pop()
            fd, data = self._reads.pop(task), task.result()
            if data:
                return Output(1 if fd == 1 else 2, data)
        return None

    async def wait(self) -> int | None:
        while (code := self._program.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        return code

    async def aclose(self) -> None:
        self._stdin.close()
        self._outputs.clear()
        for task in self._reads:
            task.cancel()
        for transport in self._transports:
            transport.close()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_CLOSE_S):  # a connector ends with its streams
                await Pipes.wait(self)
                return
            self._program.kill()
            await Pipes.wait(self)


class Main(Pipes):
    """The pipes of a program that its starter has left to itself: no exit code is known."""

    async def wait(self) -> int | None:
        return None
