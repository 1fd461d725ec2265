"""Ports: TCP into the sandbox and out of it, through the channel alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import pytest

from sandboxkit.channel.tunnels import Address
from sandboxkit.errors import ExecStartError, InvalidSpecError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.inside import program, read_until
from sandboxkit.testing.conformance.promise import promise

_MIB = 1024 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset

_SERVER = """
    import socket, struct, sys, threading, time
    server = socket.create_server(("127.0.0.1", 0))
    if sys.argv[1] == "goodbye":  # so that the system's buffers do not take everything
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    print(server.getsockname()[1], flush=True)

    def drain(peer):
        data = b""
        while piece := peer.recv(65536):
            data += piece
        return data

    def echo(peer):
        while piece := peer.recv(65536):
            peer.sendall(piece)

    def count(peer):
        peer.sendall(b"%d bytes" % len(drain(peer)))

    def goodbye(peer):
        peer.sendall(b"goodbye")
        peer.shutdown(socket.SHUT_WR)
        total = 0
        while piece := peer.recv(16384):  # slower than the tunnel, so that much is on its way
            total += len(piece)
            time.sleep(0.001)
        print(total, flush=True)

    def reset(peer):
        peer.recv(1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def report(peer):
        try:
            drain(peer)
            print("ended", flush=True)
        except ConnectionResetError:
            print("reset", flush=True)

    def serve(peer):
        with peer:
            globals()[sys.argv[1]](peer)

    while True:
        threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""
_CLIENT = """
    import socket, sys, threading
    peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    got, reset = 0, []

    def send():
        try:
            peer.sendall(b"x" * int(sys.argv[2]))
            peer.shutdown(socket.SHUT_WR)
        except OSError as error:  # a reset is told once: to the reader, or to the writer
            reset.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        while piece := peer.recv(65536):
            got += len(piece)
    except ConnectionResetError as error:
        reset.append(error)
    sender.join()
    print("reset" if reset else got)
"""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _serving(
    sandbox: Sandbox, how: str
) -> AsyncGenerator[tuple[Address, Callable[[], Awaitable[bytes]]]]:
    """A server in the sandbox, its address on this machine, and the lines that it prints."""
    async with await sandbox.spawn(program(_SERVER, how)) as server:
        port = int(await read_until(server.stdout, b"\n"))
        async with sandbox.ports.forward(port) as address:
            yield address, lambda: read_until(server.stdout, b"\n")


@contextlib.asynccontextmanager
async def _connected(address: Address) -> AsyncGenerator[Streams]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def _listening(handler: Handler) -> AsyncGenerator[int]:
    """A server on this machine."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@promise
async def test_a_port_of_the_sandbox_is_reached_from_here(sandbox: Sandbox) -> None:
    """A forwarded port carries both directions, whatever the sandbox's network."""
    async with _serving(sandbox, "echo") as (address, _), _connected(address) as (reader, writer):
        for message in (b"one", b"two", bytes(range(256))):
            writer.write(message)
            assert await reader.readexactly(len(message)) == message


@promise
async def test_a_megabyte_crosses_a_tunnel_in_both_directions(sandbox: Sandbox) -> None:
    """Large amounts cross at the same time, unchanged."""
    data = bytes(range(256)) * 4096
    async with _serving(sandbox, "echo") as (address, _), _connected(address) as (reader, writer):

        async def send() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            assert await reader.read() == data


@promise
async def test_the_end_of_one_direction_leaves_the_other(sandbox: Sandbox) -> None:
    """Half-close crosses: a server that waits for the end of the request can still answer."""
    async with _serving(sandbox, "count") as (address, _), _connected(address) as (reader, writer):
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert await reader.read() == b"100000 bytes"


@promise
async def test_what_was_sent_before_the_end_is_not_lost(sandbox: Sandbox) -> None:
    """A server that has said goodbye still gets all that the client had to say."""
    async with _serving(sandbox, "goodbye") as (address, line):
        async with _connected(address) as (reader, writer):
            assert await reader.read() == b"goodbye"
            writer.write(b"x" * 8 * _MIB)
            writer.write_eof()
        assert int(await line()) == 8 * _MIB


@promise
async def test_a_reset_crosses_out_of_the_sandbox(sandbox: Sandbox) -> None:
    """A connection that was reset in the sandbox does not look like one that has ended."""
    async with _serving(sandbox, "reset") as (address, _), _connected(address) as (reader, writer):
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()


@promise
async def test_a_reset_crosses_into_the_sandbox(sandbox: Sandbox) -> None:
    """The same for one that was reset on this machine; an orderly end stays one."""
    async with _serving(sandbox, "report") as (address, line):
        async with _connected(address) as (_, writer):
            writer.write(b"x")
            await writer.drain()
        assert await line() == b"ended\n"
        async with _connected(address) as (_, writer):
            writer.write(b"x")
            await writer.drain()
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        assert await line() == b"reset\n"


@promise
async def test_nothing_listening_is_a_failed_connection(sandbox: Sandbox) -> None:
    """A client of a port where nobody listens is refused or reset, and never left waiting."""
    async with sandbox.ports.forward(9) as address:
        with anyio.fail_after(20), pytest.raises(ConnectionError):
            async with _connected(address) as (reader, _):
                await reader.readexactly(1)


@promise
async def test_a_server_may_start_after_its_port_was_forwarded(sandbox: Sandbox) -> None:
    """Each connection is made for itself: a refused one spoils no later one."""
    probe = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"
    port = int((await sandbox.exec(program(probe), check=True)).text)
    late = _SERVER.replace("0))", f"{port}))")
    async with sandbox.ports.forward(port) as address:
        with pytest.raises(ConnectionError):
            async with _connected(address) as (reader, _):
                await reader.readexactly(1)
        async with await sandbox.spawn(program(late, "echo")) as server:
            await read_until(server.stdout, b"\n")
            async with _connected(address) as (reader, writer):
                writer.write(b"now")
                assert await reader.readexactly(3) == b"now"


@promise
async def test_twenty_connections_share_a_tunnel(sandbox: Sandbox) -> None:
    """Each connection is its own, and none waits for another."""
    async with _serving(sandbox, "echo") as (address, _):

        async def once(number: int) -> None:
            async with _connected(address) as (reader, writer):
                data = b"%d " % number * 10_000
                writer.write(data)
                writer.write_eof()
                assert await reader.read() == data

        async with anyio.create_task_group() as tasks, _connected(address):
            for number in range(20):
                tasks.start_soon(once, number)


@promise
async def test_a_tunnel_ends_with_its_block(sandbox: Sandbox) -> None:
    """Afterwards nobody listens, and connections that were open have ended."""
    async with _serving(sandbox, "echo") as (address, _):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"x")
        await reader.readexactly(1)
    with anyio.fail_after(20), contextlib.suppress(OSError):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(OSError):  # noqa: PT011 - refused, in the words of each system
        await asyncio.open_connection(address.host, address.port)


@promise
async def test_this_machine_is_reached_from_the_sandbox(sandbox: Sandbox) -> None:
    """A reverse tunnel carries both directions, with the network of the sandbox off."""
    async with (
        _listening(_echo) as host_port,
        sandbox.ports.reverse(0, "127.0.0.1", host_port) as inside,
    ):
        assert (inside.host, inside.port > 0) == ("127.0.0.1", True)
        result = await sandbox.exec(program(_CLIENT, str(inside.port), str(2 * _MIB)))
        assert result.text == f"{2 * _MIB}\n"


@promise
async def test_a_reset_crosses_a_reverse_tunnel(sandbox: Sandbox) -> None:
    """A server here that resets, or is not there at all, is a reset inside the sandbox."""

    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async with _listening(slam) as there:
        pass
    async with _listening(slam) as slamming:
        for host_port in (slamming, there):
            async with sandbox.ports.reverse(0, "127.0.0.1", host_port) as inside:
                result = await sandbox.exec(program(_CLIENT, str(inside.port), "1"))
                assert result.text == "reset\n"


@promise
async def test_a_port_of_the_sandbox_is_taken_once(sandbox: Sandbox) -> None:
    """A second listener is `ExecStartError`; when the first has ended, the port is free."""
    async with sandbox.ports.reverse(0, "127.0.0.1", 9) as inside:
        with pytest.raises(ExecStartError):
            async with sandbox.ports.reverse(inside.port, "127.0.0.1", 9):
                pass
    async with sandbox.ports.reverse(inside.port, "127.0.0.1", 9) as again:
        assert again.port == inside.port


@promise
@pytest.mark.parametrize("port", [-1, 0, 65536])
async def test_what_is_no_port_is_refused(sandbox: Sandbox, port: int) -> None:
    """A number that is no port is `InvalidSpecError`, before anything listens."""
    with pytest.raises(InvalidSpecError):
        async with sandbox.ports.forward(port):
            pass
    with pytest.raises(InvalidSpecError):
        async with sandbox.ports.reverse(0, "127.0.0.1", port):
            pass
