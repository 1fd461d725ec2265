"""A hostile sandbox at the egress proxy: other names, in every spelling, and other addresses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.gateway.conftest import Site
from tests.gateway.world import PUBLIC, curl, say, tunnel

ALLOWED = ["api.example.com", "*.example.org"]


@pytest.mark.parametrize(
    "authority",
    [
        b"evil.test:443",
        b"evil-api.example.com:443",
        b"api.example.com.evil.test:443",
        b"xapi.example.com:443",
        b"example.org:443",
        b"evilexample.org:443",
        b"evil-example.org:443",
        b"x.example.org.evil.test:443",
        b"api.example.com:22",
        b"api.example.com:25",
        b"api.example.com:2375",
        b"api.example.com:444",
        b"127.0.0.1:443",
        b"127.1:443",
        b"2130706433:443",
        b"0x7f000001:443",
        b"0177.0.0.1:443",
        b"[::1]:443",
        b"[::ffff:127.0.0.1]:443",
        b"[::ffff:7f00:1]:443",
        b"169.254.169.254:80",
        b"[fd00:ec2::254]:80",
        b"localhost:443",
        b"metadata.google.internal:80",
        b"host.docker.internal:80",
        b"api.example.com@evil.test:443",
        b"evil.test@api.example.com:443",
        b"user:password@api.example.com:443",
        b"evil.test#.example.org:443",
        b"evil.test/.example.org:443",
        b"evil.test?.example.org:443",
        b"evil.test\\.example.org:443",
        b"evil.test%00.example.org:443",
        b"evil.test%2f.example.org:443",
        b"evil.test:443:api.example.com:443",
        b"api.example.com",
        b"api.example.com:",
        b"api.example.com:0",
        b"api.example.com:65979",
        b"api.example.com:0443",
        b"api.example.com:443.",
        b"api.example.com..:443",
        b".api.example.com:443",
        b"*.example.org:443",
        b"http://api.example.com:443",
        b"[api.example.com]:443",
        b"[fe80::1%25lo]:443",
        b":443",
        b"*",
        b"/",
    ],
)
async def test_tunnels_to_other_places_are_refused(site: Site, authority: bytes) -> None:
    async with site.world.egress(ALLOWED) as egress:
        answer = await say(egress, b"CONNECT " + authority + b" HTTP/1.1", b"Host: api.example.com")
        assert answer[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 403"}, answer
        assert egress.decisions[-1].allowed is False
        assert egress.decisions[-1].reason
    assert site.world.asked == []
    assert site.world.dialled == []


@pytest.mark.parametrize(
    "authority",
    [
        b"evil.test\0.example.org:443",
        b"api.example.com\0:443",
        b"b\xc3\xbccher.example.org:443",
        b"\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.0.0.1:443",
        b"api.example.com:443\r",
        b"api.example.com\t:443",
        b"api.example.com :443",
    ],
)
async def test_bytes_that_no_name_has_are_refused(site: Site, authority: bytes) -> None:
    async with site.world.egress(ALLOWED) as egress:
        answer = await say(egress, b"CONNECT " + authority + b" HTTP/1.1", b"Host: api.example.com")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert all(one.host.isprintable() and one.reason.isascii() for one in egress.decisions)
    assert site.world.asked == []


@pytest.mark.parametrize(
    "authority", ["API.EXAMPLE.COM:443", "api.example.com.:443", "Api.Example.Com:443"]
)
async def test_a_name_has_one_form(site: Site, authority: str) -> None:
    async with site.world.egress(ALLOWED) as egress:
        (await tunnel(egress, authority)).close()
        assert egress.decisions[0].host == "api.example.com"
    assert site.world.asked == ["api.example.com"]


@pytest.mark.parametrize(
    "url",
    [
        b"http://evil.test/",
        b"http://api.example.com@evil.test/",
        b"http://evil.test\\@api.example.com/",
        b"http://user:secret@api.example.com/",
        b"http://evil.test#@api.example.com/",
        b"http://evil.test?@api.example.com/",
        b"http://api.example.com:22/",
        b"http://api.example.com:/",
        b"http:///etc/passwd",
        b"http:api.example.com/",
        b"//api.example.com/",
        b"/",
        b"*",
        b"https://api.example.com/",
        b"ftp://api.example.com/",
        b"file:///etc/passwd",
        b"gopher://api.example.com/",
        b"unix:/var/run/docker.sock",
        b"http://api.example.com/#fragment",
    ],
)
async def test_urls_of_other_places_are_refused(site: Site, url: bytes) -> None:
    async with site.world.egress(ALLOWED) as egress:
        for host in (b"api.example.com", b"evil.test"):
            answer = await say(egress, b"GET " + url + b" HTTP/1.1", b"Host: " + host)
            assert answer[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 403"}, answer
        assert "secret" not in str(egress.decisions)
    assert site.world.dialled == []


@pytest.mark.parametrize(
    "host",
    [
        b"evil.test",
        b"api.example.com.evil.test",
        b"api.example.com:81",
        b"api.example.com:443",
        b"x@api.example.com",
        b"api.example.com/",
        b"127.0.0.1",
        b"",
        b"b\xc3\xbccher.example",
    ],
)
async def test_the_host_header_must_say_the_same(site: Site, host: bytes) -> None:
    async with site.world.egress(ALLOWED) as egress:
        answer = await say(egress, b"GET http://api.example.com/ HTTP/1.1", b"Host: " + host)
        assert answer[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 403"}, answer
        # The same inside of a tunnel to the port of plain HTTP.
        client = await tunnel(egress, "api.example.com:80")
        await client.send(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert (await client.rest())[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 403"}
        client.close()
    assert site.http.seen == []


async def test_requests_inside_a_tunnel_to_port_80_are_read(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress:
        assert await curl(egress, "--proxytunnel", "http://api.example.com/x") == (
            0,
            "hello from api.example.com",
            "",
        )
        for request in (
            b"GET http://evil.test/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
            b"CONNECT evil.test:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
            b"TRACE / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        ):
            client = await tunnel(egress, "api.example.com:80")
            await client.send(request)
            assert (await client.rest())[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 403"}
            client.close()
    assert len(site.http.seen) == 1


# --- addresses


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.5"],
        ["169.254.169.254"],
        ["100.100.100.200"],
        ["::1"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
        ["2002:7f00:1::1"],
        ["0.0.0.0"],
        ["fe80::1%lo"],
        ["not an address"],
        [PUBLIC, "10.0.0.5"],
        ["0x7f.1"],
    ],
)
async def test_an_allowed_name_with_a_denied_address(site: Site, addresses: Sequence[str]) -> None:
    site.world.names["api.example.com"] = addresses
    async with site.world.egress(ALLOWED) as egress:
        for answer in (
            await say(egress, b"CONNECT api.example.com:443 HTTP/1.1"),
            await say(egress, b"GET http://api.example.com/ HTTP/1.1", b"Host: api.example.com"),
        ):
            assert answer.startswith(b"HTTP/1.1 403 ")
        assert not any(decision.allowed for decision in egress.decisions)
    assert site.world.dialled == []


async def test_a_name_that_changes_its_address_is_dialled_where_it_was_checked(site: Site) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"], ["169.254.169.254"]])

    async def resolve(host: str, port: int) -> Sequence[str]:
        return next(answers)

    from sandboxkit.gateway import Egress
    from sandboxkit.spec import NetworkPolicy

    policy = NetworkPolicy.allow(ALLOWED)
    async with Egress(policy, resolve=resolve, dial=site.world.dial) as egress:
        assert (await curl(egress, "http://api.example.com/"))[1] == "hello from api.example.com"
        for _ in range(2):
            answer = await say(egress, b"CONNECT api.example.com:443 HTTP/1.1")
            assert b"never allowed" in answer
    assert site.world.dialled == [(PUBLIC, 80)]


async def test_redirects_are_checked_again(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress:
        code, out, _ = await curl(egress, "-L", "http://api.example.com/to/api.example.com/there")
        assert (code, out) == (0, "hello from api.example.com")
        for place in ("evil.test/", "169.254.169.254/latest/meta-data", "127.0.0.1:2375/info"):
            code, out, _ = await curl(egress, "-L", "http://api.example.com/to/" + place)
            assert "do not retry" in out
        assert [one.host for one in egress.decisions if not one.allowed] == [
            "evil.test",
            "169.254.169.254",
            "127.0.0.1",
        ]
    assert set(site.world.dialled) == {(PUBLIC, 80)}
