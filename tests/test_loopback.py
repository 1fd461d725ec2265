"""Ports on 127.0.0.1: nothing is left of them, whenever what uses them is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import sandboxkit as sk
from sandboxkit.gateway.egress import Egress
from sandboxkit.gateway.model.server import Answer, HttpServer, Request
from sandboxkit.loopback import Connections, close, listen
from sandboxkit.spec import NetworkPolicy
from sandboxkit.testing import MemoryProvider
from tests.cancelling import Work, cancel_at_every_await, nothing_lost


async def asked(port: int) -> None:
    """Connect, say a word and wait for the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(OSError):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await writer.drain()
            await reader.read(100)
    finally:
        writer.transport.abort()


async def test_whenever_a_port_is_opened() -> None:
    async def listened() -> None:
        close(await listen(lambda _, writer: writer.close()))

    async def begin() -> Work:
        return listened()

    async with nothing_lost():
        assert await cancel_at_every_await(begin) > 1


async def test_whenever_a_forwarded_port_is_used() -> None:
    async with sk.Sandbox.create(MemoryProvider()) as sandbox:

        async def used() -> None:
            async with sandbox.ports.forward(80) as address:
                await asked(address.port)

        async def begin() -> Work:
            return used()

        async with nothing_lost():
            assert await cancel_at_every_await(begin) > 4


async def test_whenever_the_way_out_is_used() -> None:
    async def used() -> None:
        async with Egress(NetworkPolicy(mode="none")) as proxy:
            await asked(proxy.port)

    async def begin() -> Work:
        return used()

    async with nothing_lost():
        assert await cancel_at_every_await(begin) > 4


async def test_whenever_the_way_to_the_model_is_used() -> None:
    async def handle(request: Request, answer: Answer) -> None:
        await answer.whole(200, b"well", {})

    async def used() -> None:
        async with HttpServer(handle) as server:
            await asked(server.port)

    async def begin() -> Work:
        return used()

    async with nothing_lost():
        assert await cancel_at_every_await(begin) > 4


async def test_a_connection_whose_task_never_began_is_let_go_of() -> None:
    connections, seen = Connections(), list[bool]()

    async def serve() -> None:
        raise AssertionError("it began")

    def let_go(*, cut: bool) -> None:
        seen.append(cut)

    connections.start(serve(), let_go)
    await connections.aclose()
    assert seen == [True]
    connections.start(serve(), let_go)  # it was being accepted at the end
    assert seen == [True, True]


async def test_a_port_is_free_again_when_its_block_has_ended() -> None:
    async with sk.Sandbox.create(MemoryProvider()) as sandbox:
        async with sandbox.ports.forward(80) as first:
            pass
        for _ in range(20):
            with socket.create_server(("127.0.0.1", first.port)):
                pass
            async with sandbox.ports.forward(80, local_port=first.port) as again:
                assert again.port == first.port
