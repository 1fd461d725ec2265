"""The egress proxy as real clients use it: curl, urllib, http.client, raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import urllib.request
from http.client import HTTPConnection, HTTPSConnection

import pytest

from sandboxkit.gateway import Decision
from sandboxkit.spec import NetworkPolicy
from tests.gateway.conftest import Site
from tests.gateway.world import (
    OTHER_PUBLIC,
    PUBLIC,
    Certificates,
    Client,
    World,
    credentials,
    curl,
    proxy_url,
    say,
    tunnel,
)

ALLOWED = ["api.example.com"]


async def test_curl_through_a_tunnel(site: Site, certificates: Certificates) -> None:
    async with site.world.egress(ALLOWED) as egress:
        code, out, err = await curl(
            egress, "--cacert", certificates.ca_file, "https://API.Example.COM/x"
        )
        assert (code, out) == (0, "hello from API.Example.COM"), err
        assert site.world.dialled == [(PUBLIC, 443)]
        assert site.world.asked == ["api.example.com"]
        (decision,) = egress.decisions
        assert (decision.method, decision.host, decision.port) == (
            "CONNECT",
            "api.example.com",
            443,
        )
        assert (decision.allowed, decision.reason, decision.address) == (True, "", PUBLIC)
        assert egress.traffic.received > 300
        assert egress.traffic.sent > 300


@pytest.mark.parametrize("path", ["/x", "/chunked", "/until-closed"])
async def test_curl_in_plain_http(site: Site, path: str) -> None:
    said = {
        "/x": "hello from api.example.com",
        "/chunked": "hello world",
        "/until-closed": "the end is the end",
    }
    async with site.world.egress(ALLOWED) as egress:
        assert await curl(egress, "http://api.example.com" + path) == (0, said[path], "")
        assert await curl(egress, "-I", "http://api.example.com" + path, "-o", "/dev/null") == (
            0,
            "",
            "",
        )
        assert await curl(egress, "-0", "http://api.example.com" + path) == (0, said[path], "")
    seen = site.http.seen[0]
    assert (seen.method, seen.path, seen.headers["Host"]) == ("GET", path, "api.example.com")
    assert not [name for name in seen.headers if name.lower().startswith("proxy-")]
    assert "Connection" not in seen.headers


async def test_bodies_of_every_kind(site: Site, tmp_path: object) -> None:
    big = "x" * 3_000_000  # curl asks for a `100 Continue` first
    async with site.world.egress(ALLOWED) as egress:
        client = asyncio.to_thread(_post, proxy_url(egress), big.encode())
        assert await client == big.encode()
        # A path that curl reads from its command line would be too long: chunked, from a pipe.
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "-q", "--noproxy", "", "--proxy", proxy_url(egress), "-T", "-"),
            "http://api.example.com/upload",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(big.encode())
        assert out == big.encode()
    assert [len(seen.body) for seen in site.http.seen] == [len(big), len(big)]
    assert site.http.seen[1].headers["Transfer-Encoding"] == "chunked"


def _post(proxy: str, body: bytes) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))
    with opener.open(
        urllib.request.Request("http://api.example.com/p", data=body), timeout=20
    ) as it:
        return bytes(it.read())


async def test_urllib_and_http_client_through_a_tunnel(
    site: Site, certificates: Certificates
) -> None:
    def by_urllib(proxy: str) -> bytes:
        handlers = (
            urllib.request.ProxyHandler({"https": proxy}),
            urllib.request.HTTPSHandler(context=certificates.trust()),
        )
        with urllib.request.build_opener(*handlers).open("https://api.example.com/u") as answer:
            return bytes(answer.read())

    def by_http_client(port: int, token: dict[str, str]) -> list[bytes]:
        connection = HTTPSConnection("127.0.0.1", port, context=certificates.trust())
        connection.set_tunnel("api.example.com", 443, token)
        bodies: list[bytes] = []
        for _ in range(3):
            connection.request("GET", "/h")
            bodies.append(connection.getresponse().read())
        connection.close()
        return bodies

    async with site.world.egress(ALLOWED) as egress:
        assert (
            await asyncio.to_thread(by_urllib, proxy_url(egress)) == b"hello from api.example.com"
        )
        name, _, value = credentials(egress).decode().strip().partition(": ")
        bodies = await asyncio.to_thread(by_http_client, egress.port, {name: value})
        assert bodies == [b"hello from api.example.com"] * 3
    assert site.https.connections == 2


async def test_a_refused_tunnel_tells_http_client_why(site: Site) -> None:
    def ask(port: int, token: dict[str, str]) -> None:
        connection = HTTPConnection("127.0.0.1", port)
        connection.set_tunnel("evil.test", 443, token)
        try:
            connection.request("GET", "/")
        finally:
            connection.close()

    async with site.world.egress(ALLOWED) as egress:
        name, _, value = credentials(egress).decode().strip().partition(": ")
        with pytest.raises(OSError, match=r"evil\.test is not on the list.*do not retry"):
            await asyncio.to_thread(ask, egress.port, {name: value})


async def test_keep_alive_keeps_both_connections(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress:
        client = await Client.open(egress)
        for path in (b"/a", b"/chunked", b"/b"):
            await client.send(
                b"GET http://api.example.com" + path + b" HTTP/1.1\r\nHost: api.example.com\r\n",
                credentials(egress) + b"\r\n",
            )
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 200 ")
            end = b"0\r\n\r\n" if b"chunked" in head else b"hello from api.example.com"
            await client.reader.readuntil(end)
        # One right after another, before the answers.
        await client.send(
            *(
                b"GET http://api.example.com/%d HTTP/1.1\r\nHost: api.example.com\r\n%s\r\n"
                % (number, credentials(egress))
                for number in range(3)
            )
        )
        for _ in range(3):
            await client.head()
            await client.reader.readuntil(b"hello from api.example.com")
        client.close()
        assert site.http.connections == 1
        assert [seen.path for seen in site.http.seen] == ["/a", "/chunked", "/b", "/0", "/1", "/2"]
        assert len(egress.decisions) == 6
        assert len(site.world.asked) == 1


async def test_a_refusal_says_what_an_agent_must_know(site: Site) -> None:
    heard: list[Decision] = []

    def hear(decision: Decision) -> None:
        heard.append(decision)
        raise RuntimeError("a caller's mistake")

    async with site.world.egress(
        ["api.example.com", "*.example.org:443"], on_decision=hear
    ) as egress:
        code, out, err = await curl(egress, "-w", "%{http_code}", "http://evil.test/path?q=1")
        assert (code, err, out[-3:]) == (0, "", "403")
        error = json.loads(out[:-3])["error"]
        assert error["type"] == "network_policy"
        assert (error["host"], error["port"], error["retry"]) == ("evil.test", 80, False)
        assert error["allowed"] == ["api.example.com", "*.example.org:443"]
        assert "evil.test is not on the list" in error["message"]
        assert "do not retry" in error["advice"]
        code, _, err = await curl(egress, "https://evil.test/")
        assert code == 56
        assert "403" in err
        assert egress.token not in str(heard) + out
        assert [(one.host, one.port, one.allowed) for one in heard] == [
            ("evil.test", 80, False),
            ("evil.test", 443, False),
        ]
        assert tuple(heard) == egress.decisions
    assert site.world.asked == []


async def test_none_and_an_empty_list_let_nothing_out(site: Site) -> None:
    for policy in (NetworkPolicy.none(), NetworkPolicy.allow([])):
        async with site.world.egress(policy) as egress:
            assert (await say(egress, b"CONNECT api.example.com:443 HTTP/1.1")).startswith(
                b"HTTP/1.1 403 "
            )
    assert site.world.dialled == []


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"Proxy-Authorization: Basic c2FuZGJveGtpdDp3cm9uZw==\r\n",
        b"Proxy-Authorization: Bearer {token}\r\n",
        b"Authorization: Basic {basic}\r\n",
        b"Proxy-Authorization: Basic {basic}\r\nProxy-Authorization: Basic {basic}\r\n",
        b"Proxy-Authorization: Basic\r\n",
    ],
)
async def test_the_token_is_needed(site: Site, given: bytes) -> None:
    async with site.world.egress(ALLOWED) as egress:
        basic = credentials(egress).split()[-1]
        fields = given.replace(b"{basic}", basic).replace(b"{token}", egress.token.encode())
        for request in (
            b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n",
            b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n",
        ):
            client = await Client.open(egress)
            await client.send(request, fields, b"\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 407 ")
            client.close()
    assert site.world.asked == []


async def test_the_token_of_another_session_is_worth_nothing(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress, site.world.egress(ALLOWED) as other:
        client = await Client.open(egress)
        await client.send(
            b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n",
            credentials(other),
            b"\r\n",
        )
        assert (await client.head()).startswith(b"HTTP/1.1 407 ")
        client.close()


async def test_a_client_that_waits_to_be_asked_for_the_token(
    site: Site, certificates: Certificates
) -> None:
    async with site.world.egress(ALLOWED) as egress:  # git does it so
        ask = ("--proxy-anyauth", "--cacert", certificates.ca_file)
        for url in ("http://api.example.com/", "https://api.example.com/"):
            assert await curl(egress, *ask, url) == (0, "hello from api.example.com", "")


async def test_what_is_allowed_but_not_there_is_no_refusal(site: Site) -> None:
    async with site.world.egress(["api.example.com:81", "gone.example"]) as egress:
        assert b"502 Bad Gateway" in await say(egress, b"CONNECT api.example.com:81 HTTP/1.1")
        assert b"could not be resolved" in await say(egress, b"CONNECT gone.example:443 HTTP/1.1")
        assert [decision.allowed for decision in egress.decisions] == [True, True]
        assert [bool(decision.reason) for decision in egress.decisions] == [True, True]


async def test_the_second_address_is_tried(site: Site) -> None:
    site.world.names["api.example.com"] = [OTHER_PUBLIC, PUBLIC]
    async with site.world.egress(ALLOWED) as egress:
        assert (await curl(egress, "http://api.example.com/"))[1] == "hello from api.example.com"
        assert egress.decisions[0].address == PUBLIC
    assert site.world.dialled == [(OTHER_PUBLIC, 80), (PUBLIC, 80)]


async def test_an_address_and_a_port_of_the_list(site: Site, certificates: Certificates) -> None:
    site.world.places[PUBLIC, 8443] = site.https.port
    async with site.world.egress([PUBLIC, "api.example.com:8443"]) as egress:
        ask = ("--insecure", f"https://{PUBLIC}/")  # no SNI: curl sends none for addresses
        assert await curl(egress, *ask) == (0, f"hello from {PUBLIC}", "")
        named = ("--cacert", str(certificates.ca_file), "https://api.example.com:8443/")
        assert (await curl(egress, *named))[1] == "hello from api.example.com:8443"
    assert site.world.asked == ["api.example.com"]  # an address is not resolved


async def test_bytes_flow_both_ways_and_halves_end_apart(site: Site) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # until the end of the client's half
        writer.write(data.upper())
        await writer.drain()

    async with (
        site.world.tcp(PUBLIC, 9000, shout),
        site.world.egress(["api.example.com:9000"]) as egress,
    ):
        client = await tunnel(egress, "api.example.com:9000")
        await client.send(b"hello" * 1_000_000)
        client.writer.write_eof()
        assert await client.rest() == b"HELLO" * 1_000_000
        client.close()
        assert egress.traffic.received > 5_000_000
        assert egress.traffic.sent >= 5_000_000


async def test_a_reset_crosses_the_tunnel_in_both_directions(site: Site) -> None:
    ended = asyncio.Queue[str]()

    async def reset_or_wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) == b"r":
            _reset(writer)
            return
        try:
            await reader.read(1)
            ended.put_nowait("closed")
        except ConnectionResetError:
            ended.put_nowait("reset")

    async with (
        site.world.tcp(PUBLIC, 9000, reset_or_wait),
        site.world.egress(["api.example.com:9000"]) as egress,
    ):
        client = await tunnel(egress, "api.example.com:9000")
        await client.send(b"r")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
        client.close()
        client = await tunnel(egress, "api.example.com:9000")
        await client.send(b"w")
        while not egress.traffic.received:
            await asyncio.sleep(0)
        _reset(client.writer)
        assert await ended.get() == "reset"


def _reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def test_a_slow_reader_holds_the_sender_back(site: Site) -> None:
    sent = 0
    full = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(65536))
            sent += 65536
            drained = asyncio.ensure_future(writer.drain())
            done, _ = await asyncio.wait({drained}, timeout=1)
            if not done:
                full.set()
            await drained

    async with (
        site.world.tcp(PUBLIC, 9000, flood),
        site.world.egress(["api.example.com:9000"]) as egress,
    ):
        client = await tunnel(egress, "api.example.com:9000")
        await full.wait()
        assert sent < 40_000_000  # the kernel's buffers, and ours
        _reset(client.writer)


async def test_the_policy_changes_while_it_runs(site: Site) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        await reader.read()

    async with (
        site.world.tcp(PUBLIC, 9000, hold),
        site.world.egress(["api.example.com:9000"]) as egress,
    ):
        kept = await tunnel(egress, "api.example.com:9000")
        await kept.reader.readexactly(4)
        egress.change(NetworkPolicy.allow(["api.example.com"]))
        with pytest.raises(ConnectionResetError):
            await kept.reader.read()
        assert "policy was changed" in egress.decisions[-1].reason
        kept.close()
        assert (await curl(egress, "http://api.example.com/"))[1] == "hello from api.example.com"

        client = await Client.open(egress)
        request = b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n"
        await client.send(request, credentials(egress), b"\r\n")
        await client.reader.readuntil(b"hello from api.example.com")
        egress.change(NetworkPolicy.allow(["api.example.com:80", "other.example"]))
        await client.send(request, credentials(egress), b"\r\n")  # it stays: still allowed
        await client.reader.readuntil(b"hello from api.example.com")
        client.close()
        egress.change(NetworkPolicy.none())
        assert "403" in (await curl(egress, "-v", "http://api.example.com/"))[2]


async def test_everything_ends_with_the_block(site: Site) -> None:
    ended = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            ended.set()

    async with site.world.tcp(PUBLIC, 9000, hold):
        async with site.world.egress(["api.example.com:9000"]) as egress:
            client = await tunnel(egress, "api.example.com:9000")
            idle = await Client.open(egress)
            port = egress.port
        with pytest.raises(ConnectionError):
            await client.reader.read()
        assert await idle.rest() == b""
        await ended.wait()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        client.close()
        idle.close()


async def test_the_systems_resolver_is_asked_without_search_domains() -> None:
    from sandboxkit.gateway import Egress

    async with Egress(NetworkPolicy.open()) as egress:
        answer = await say(egress, b"CONNECT localhost:443 HTTP/1.1")
        assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 502 "))
        assert await say(egress, b"CONNECT 127.0.0.1:22 HTTP/1.1") != b""
        assert not any(decision.address for decision in egress.decisions)


def test_this_machines_own_addresses_are_known() -> None:
    from sandboxkit.gateway.resolver import is_own

    assert is_own("127.0.0.1")
    assert not is_own("8.8.8.8")


async def test_open_takes_any_public_host(site: Site) -> None:
    site.world.names["rebound.example"] = ["10.0.0.1"]
    async with site.world.egress(NetworkPolicy.open()) as egress:
        assert (await curl(egress, "http://api.example.com/"))[0] == 0
        assert b"403" in await say(egress, b"CONNECT rebound.example:443 HTTP/1.1")


def test_a_proxy_that_does_not_run_has_no_port() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = World().egress(ALLOWED).port


async def test_tls_inside_a_tunnel_is_end_to_end(site: Site, certificates: Certificates) -> None:
    async with site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        await client.writer.start_tls(certificates.trust(), server_hostname="api.example.com")
        peer = client.writer.get_extra_info("peercert")
        assert peer["issuer"] == ((("commonName", "the world"),),)
        assert isinstance(client.writer.get_extra_info("ssl_object"), ssl.SSLObject)
        client.close()
