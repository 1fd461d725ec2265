"""TCP through the channel, in both directions; no network of the sandbox is needed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.process import kill_quietly
from sandboxkit.channel.remote import RemoteChannel
from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import ConnectionLostError, InvalidSpecError, ProtocolError, SandboxError
from sandboxkit.guest import wire
from sandboxkit.loopback import Connections, close, listen
from sandboxkit.providers.base import Exposed

_DIAL_S = 10.0
_LAST_PORT = 65535
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens."""

    host: str
    port: int

    def url(self, scheme: str = "http") -> str:
        """The address as a URL."""
        return f"{scheme}://{self.host}:{self.port}"


class Ports:
    """The ports of a sandbox, as `sandbox.ports`."""

    def __init__(
        self,
        client: Callable[[], GuestClient],
        expose: Callable[[int], Coroutine[Any, Any, Exposed]],
    ) -> None:
        self._client = client
        self._expose = expose

    async def expose(self, port: int) -> Exposed:
        """The public address of a port that the spec has declared (`ports=(8000,)`).

        Returns:
            Its URL, and the headers that let a request in.

        Raises:
            InvalidSpecError: It is not a port.
            UnsupportedError: The backend has no public addresses, or needs to know the
                port when the sandbox is created.
        """
        _check_port(port)
        return await self._expose(port)

    @contextlib.asynccontextmanager
    async def forward(self, port: int, *, local_port: int = 0) -> AsyncGenerator[Address]:
        """Make a port of the sandbox reachable on this machine, for the block.

        Each connection to the address is carried to 127.0.0.1 in the sandbox, whatever
        its network policy. The end of a direction and a reset cross the tunnel.

        Args:
            port: The port in the sandbox. Nothing need listen yet.
            local_port: The port on this machine; 0 picks a free one.

        Raises:
            InvalidSpecError: It is not a port.
            OSError: The local port is taken.
        """
        _check_port(port)
        client = self._client()
        connections = Connections()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            channel = client.channel(
                {"op": "connect", "host": "127.0.0.1", "port": port},
                inputs=(wire.STDIN,),
                outputs=(wire.STDOUT,),
            )
            try:
                with anyio.fail_after(_DIAL_S):
                    await channel.started()
                await _Pump(channel, reader, writer).run()
            except (SandboxError, TimeoutError, OSError):
                _reset(writer)
            finally:
                channel.close(reset=channel.done is None)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            def let_go(*, cut: bool) -> None:
                if cut:
                    _reset(writer)
                writer.close()

            connections.start(serve(reader, writer), let_go)

        try:
            server = await listen(accept, local_port)
            try:
                yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
            finally:
                close(server)
        finally:
            await connections.aclose()

    @contextlib.asynccontextmanager
    async def reverse(
        self, port: int, host: str, host_port: int, *, passive: bool = False
    ) -> AsyncGenerator[Address]:
        """Make an address of this machine reachable inside the sandbox, for the block.

        Args:
            port: The port on 127.0.0.1 in the sandbox; 0 picks a free one.
            host: Where connections go on this side.
            host_port: Likewise.
            passive: Whether its connections are no activity, as those of an agent that waits.

        Yields:
            The address in the sandbox.

        Raises:
            ExecStartError: The port in the sandbox is taken.
        """
        async with reverse(self._client(), port, host, host_port, passive=passive) as address:
            yield address

    @contextlib.asynccontextmanager
    async def lasting(self, port: int, host: str, host_port: int) -> AsyncGenerator[Listening]:
        """What `reverse` does, with a port that outlives its host.

        While no host has it, connections to it wait. The next host takes it by its number.
        Set `keep` of what is yielded to False, and it ends with the block.

        Raises:
            ExecStartError: The port in the sandbox is taken.
        """
        listening = Listening(self._client(), host, host_port, passive=True, keep=True)
        try:
            await listening.open(port)
            yield listening
        finally:
            await listening.aclose()


@contextlib.asynccontextmanager
async def reverse(
    client: GuestClient, port: int, host: str, host_port: int, *, passive: bool = False
) -> AsyncGenerator[Address]:
    """What `Ports.reverse` does, with a client.

    Args:
        client: The way into the sandbox.
        port: See `Ports.reverse`; so are `host` and `host_port`.
        host: See `Ports.reverse`.
        host_port: See `Ports.reverse`.
        passive: Whether its connections are no activity.
    """
    for number in (port or 1, host_port):
        _check_port(number)
    listening = Listening(client, host, host_port, passive=passive)
    try:
        yield Address("127.0.0.1", await listening.open(port))
    finally:
        await listening.aclose()


class Listening:
    """A port in the sandbox on which the guest listens, for as long as it can be had.

    Args:
        client: The way into the sandbox.
        host: Where connections go on this side.
        host_port: Likewise.
        passive: Whether its connections are no activity.
        keep: See the attribute. Where this is False at first, it stays so.
        note: What the next host finds with a port that is kept: see `list_ports`.

    Attributes:
        port: Its number in the sandbox.
        keep: Whether the guest goes on listening without this host.
    """

    def __init__(
        self,
        client: GuestClient,
        host: str,
        host_port: int,
        *,
        passive: bool = False,
        keep: bool = False,
        note: str = "",
    ) -> None:
        self._client, self._host, self._host_port = client, host, host_port
        self._passive, self._note = passive, note
        self._detach = self.keep = keep
        self.port = 0
        self._connections = Connections()
        self._listener: RemoteChannel | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, port: int) -> int:
        """Begin; the port that was given."""
        listener = self._listen(port)
        given = (await listener.started()).get("port")
        if type(given) is not int or not 1 <= given <= _LAST_PORT:
            raise ProtocolError(f"the guest sent {given!r} as a port")
        self._keeper = asyncio.create_task(self._keep(listener, given))
        self.port = given
        return given

    async def aclose(self) -> None:
        """Let go of the port. Connections that there are end."""
        await cancel_and_wait(self._keeper)
        if self._listener is not None:
            if self._detach and not self.keep:
                await kill_quietly(self._listener, 0.0)
            self._listener.close()
        await self._connections.aclose()

    def _listen(self, port: int) -> RemoteChannel:
        request: dict[str, object] = {"op": "listen", "host": "127.0.0.1", "port": port}
        if self._passive:
            request["passive"] = True
        if self._detach:
            request["detach"] = True
        if self._note:
            request["note"] = self._note
        self._listener = self._client.channel(
            request,
            on_accept=self._accept,
        )
        return self._listener

    def _accept(self, channel: RemoteChannel) -> None:
        def let_go(*, cut: bool) -> None:  # noqa: ARG001 - the channel knows more
            channel.close(reset=channel.done is None)

        self._connections.start(self._serve(channel), let_go)

    async def _keep(self, listener: RemoteChannel, port: int) -> None:
        """Listen again where a guest that lives has forgotten this host, and all it had."""
        with contextlib.suppress(SandboxError):  # there is no sandbox any more
            while True:
                try:
                    await listener.finished()
                    return
                except ConnectionLostError:
                    listener.close()
                    listener = self._listen(port)

    async def _serve(self, channel: RemoteChannel) -> None:
        try:
            with anyio.fail_after(_DIAL_S):
                reader, writer = await asyncio.open_connection(self._host, self._host_port)
        except (OSError, TimeoutError):
            channel.close(reset=True)
            return
        try:
            await _Pump(channel, reader, writer).run()
        except (SandboxError, OSError):
            _reset(writer)
        except asyncio.CancelledError:
            _reset(writer)
            raise
        finally:
            writer.close()


class _Pump:
    """Carries bytes between a channel and a local socket until both directions end."""

    def __init__(
        self, channel: RemoteChannel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._channel, self._reader, self._writer = channel, reader, writer

    async def run(self) -> None:
        """Raises OSError or SandboxError when either side breaks."""
        try:
            async with asyncio.TaskGroup() as tasks:
                # The watch is over when the sandbox's side is: until then, what was sent last
                # may still be on its way, and closing would reset it.
                for part in (self._watch_for_reset(), self._inward(), self._outward()):
                    tasks.create_task(part)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _watch_for_reset(self) -> None:
        done = await self._channel.finished()
        if done.get("reset") or done.get("error"):
            raise ConnectionResetError("the connection was reset in the sandbox")

    async def _inward(self) -> None:
        while data := await self._reader.read(wire.CHUNK):
            await self._channel.write(wire.STDIN, data)
        self._channel.write_eof(wire.STDIN)

    async def _outward(self) -> None:
        while True:
            try:
                data = await self._channel.receive(wire.STDOUT, wire.CHUNK)
            except anyio.EndOfStream:
                break
            self._writer.write(data)
            await self._writer.drain()
        if self._writer.can_write_eof():
            self._writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    writer.transport.abort()


def _check_port(port: int) -> None:
    if not 1 <= port <= _LAST_PORT:
        raise InvalidSpecError(f"{port} is not a port: 1 to 65535")
