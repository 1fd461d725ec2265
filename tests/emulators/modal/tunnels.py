"""The declared ports of a sandbox, each at a local port."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from sandboxkit.errors import SandboxError
from tests.emulators.machines import Machine, MachineGone, Program, StartFailed

if TYPE_CHECKING:
    from modal_proto import api_pb2 as api

_READ = 65536
_CLOSE_S = 1


class Tunnels:
    """The listening ports of one sandbox."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._encrypted: dict[int, asyncio.Server] = {}
        self._plain: dict[int, asyncio.Server] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls, machine: Machine, specs: api.PortSpecs, certificate: ssl.SSLContext
    ) -> Tunnels:
        """Listen for all of the declared ports; TLS ends here, as it does at Modal."""
        tunnels = cls(machine)
        for spec in specs.ports:
            tunnels._encrypted[spec.port] = await tunnels._listen(spec.port, certificate)
            if spec.unencrypted:
                tunnels._plain[spec.port] = await tunnels._listen(spec.port, None)
        return tunnels

    @property
    def in_use(self) -> bool:
        """Whether somebody is connected."""
        return bool(self._tasks)

    def local_ports(self, port: int) -> tuple[int, int]:
        """Where a declared port is reached: with TLS, and without or 0."""
        plain = self._plain.get(port)
        return _port(self._encrypted[port]), 0 if plain is None else _port(plain)

    async def aclose(self) -> None:
        """Stop to listen, and cut what is connected."""
        for server in (*self._encrypted.values(), *self._plain.values()):
            server.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _listen(self, port: int, certificate: ssl.SSLContext | None) -> asyncio.Server:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(port, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: writer.close())  # cancelled before it began, too

        return await asyncio.start_server(
            connected,
            "127.0.0.1",
            0,
            ssl=certificate,
            ssl_shutdown_timeout=_CLOSE_S if certificate else None,
        )

    async def _serve(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with suppress(SandboxError, MachineGone, StartFailed, OSError):
                inside = await self._machine.connect(port)
                try:
                    await _relay(inside, reader, writer)
                finally:
                    await inside.aclose()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def _relay(
    inside: Program, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async def inwards() -> None:
        while data := await reader.read(_READ):
            await inside.send(data)
        await inside.send_eof()

    sending = asyncio.create_task(inwards())
    try:
        async for piece in inside:
            if piece.fd == 1:
                writer.write(piece.data)
                await writer.drain()
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError, SandboxError, OSError):
            await sending
