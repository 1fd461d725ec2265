"""A hostile sandbox at the egress proxy: slow and many connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sandboxkit.gateway import Limits
from tests.gateway.conftest import Site
from tests.gateway.world import OTHER_PUBLIC, PUBLIC, Client, curl, say, tunnel

ALLOWED = ["api.example.com", "*.example.org"]
ALERT = bytes((21, 3, 3, 0, 2, 2, 49))


async def test_slow_heads_and_slow_handshakes_end(site: Site) -> None:
    limits = Limits(head_s=0.2)
    async with site.world.egress(ALLOWED, limits=limits) as egress:
        client = await Client.open(egress)
        await client.send(b"GET http://api.exam")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        client.close()
        client = await tunnel(egress, "api.example.com:443")
        await client.send(b"\x16\x03")
        assert await client.rest() == ALERT
        client.close()


async def test_a_connection_on_which_nothing_moves_ends(site: Site) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    limits = Limits(idle_s=0.2)
    async with (
        site.world.tcp(PUBLIC, 9000, hold),
        site.world.egress(["api.example.com:9000"], limits=limits) as egress,
    ):
        client = await tunnel(egress, "api.example.com:9000")
        assert await client.rest() == b""
        assert "nothing has moved" in egress.decisions[-1].reason
        client.close()


async def test_a_thousand_connections(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress, site.world.egress(ALLOWED) as other:
        clients = [await Client.open(egress) for _ in range(1000)]
        while egress.traffic.connections + egress.traffic.refused < 1000:
            await asyncio.sleep(0)
        assert egress.traffic.connections == 256
        busy = [
            client for client in clients[-500:] if (await client.head())[:12] == b"HTTP/1.1 503"
        ]
        assert len(busy) == 500
        # Other sessions go on, and so does this one once there is room.
        assert (await curl(other, "http://api.example.com/"))[0] == 0
        for client in clients:
            client.close()
        while (await curl(egress, "http://api.example.com/"))[1] != "hello from api.example.com":
            pass
        assert len(egress.decisions) <= 1000


async def test_names_that_never_resolve_do_not_hold_the_others(site: Site) -> None:
    site.world.names["fast.example.org"] = [OTHER_PUBLIC]
    never = asyncio.Event()

    async def resolve(host: str, port: int) -> Sequence[str]:
        if host.startswith("slow"):
            await never.wait()
        return await site.world.resolve(host, port)

    from sandboxkit.gateway import Egress
    from sandboxkit.spec import NetworkPolicy

    policy, limits = NetworkPolicy.allow(ALLOWED), Limits(resolve_s=0.3)
    async with Egress(policy, resolve=resolve, dial=site.world.dial, limits=limits) as egress:
        slow = asyncio.ensure_future(say(egress, b"CONNECT slow.example.org:443 HTTP/1.1"))
        assert (await curl(egress, "http://api.example.com/"))[0] == 0
        assert b"in time" in await slow
