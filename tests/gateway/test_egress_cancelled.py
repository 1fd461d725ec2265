"""A connection to a host that a cancelled request had just made is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sandboxkit.gateway.decisions import Log
from sandboxkit.gateway.gate import Gate
from sandboxkit.gateway.limits import Limits
from sandboxkit.gateway.policy import Rules
from sandboxkit.gateway.resolver import Resolver, Streams
from sandboxkit.loopback import close, listen
from sandboxkit.spec import NetworkPolicy
from tests.cancelling import Work, cancel_at_every_await, nothing_lost


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_whenever_the_way_to_a_host_is_cancelled(name: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(0)
        return ["8.8.8.8"]

    async def dial(address: str, port: int) -> Streams:
        return await asyncio.open_connection(name, server.sockets[0].getsockname()[1])

    async def begin() -> Work:
        return connected()

    async def connected() -> None:
        _address, (_reader, writer) = await gate.connect("GET", "host.example", 443)
        writer.close()

    limits = Limits()
    resolver = Resolver(limits, resolve, dial)
    gate = Gate(Rules(NetworkPolicy.allow(["host.example"])), resolver, Log(10, None), limits)
    server = await listen(lambda _, writer: writer.close())
    try:
        async with nothing_lost():
            assert await cancel_at_every_await(begin) > 4
    finally:
        close(server)
        resolver.close()
