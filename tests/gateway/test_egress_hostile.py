"""What a hostile sandbox tries on the egress proxy."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Sequence

import pytest

from sandboxkit.gateway import Limits
from sandboxkit.gateway.clienthello import NotTls, server_name
from tests.gateway.conftest import Site
from tests.gateway.world import (
    OTHER_PUBLIC,
    PUBLIC,
    Certificates,
    Client,
    credentials,
    curl,
    say,
    tunnel,
)

ALLOWED = ["api.example.com", "*.example.org"]
ALERT = bytes((21, 3, 3, 0, 2, 2, 49))


# --- names ------------------------------------------------------------------------


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


# --- addresses --------------------------------------------------------------------


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


# --- TLS --------------------------------------------------------------------------


async def test_a_tunnel_is_for_its_own_name_only(site: Site, certificates: Certificates) -> None:
    site.world.names["www.example.org"] = [PUBLIC]
    async with site.world.egress([*ALLOWED, PUBLIC]) as egress:
        for host, name in (
            ("api.example.com", "evil.test"),
            ("api.example.com", "www.example.org"),  # allowed, but another one
            ("api.example.com", "api.example.com.evil.test"),
            ("api.example.com", None),
            (PUBLIC, "evil.test"),
        ):
            client = await tunnel(egress, f"{host}:443")
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
                await client.writer.start_tls(context, server_hostname=name or "")
            client.close()
            assert egress.decisions[-1].method == "TLS"
            assert egress.decisions[-1].allowed is False
        trust = ("--cacert", certificates.ca_file)
        front = ("--connect-to", "evil.test:443:api.example.com:443", "https://evil.test/")
        code, _, err = await curl(egress, *trust, *front)
        assert code == 35, err
        assert "access denied" in err
    assert site.https.seen == []


@pytest.mark.parametrize(
    "first",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"\x16\x03\x01\x00\x00" + bytes(16),
        b"\x16\x03\x01\xff\xff" + bytes(16),
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x17\x03\x03\x00\x04abcd",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
        b"\x16\x03\x01",
        b"",
    ],
)
async def test_port_443_is_for_tls(site: Site, first: bytes) -> None:
    got = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.read())

    async with site.world.tcp(PUBLIC, 443, listen), site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        await client.send(first)
        client.writer.write_eof()
        assert await client.rest() == ALERT
        client.close()
    assert got == b""


def hello(name: bytes | None, *more: tuple[int, bytes]) -> bytes:
    """A ClientHello message, by hand."""
    extensions = list(more)
    if name is not None:
        entry = b"\0" + struct.pack(">H", len(name)) + name
        extensions.append((0, struct.pack(">H", len(entry)) + entry))
    packed = b"".join(struct.pack(">HH", kind, len(data)) + data for kind, data in extensions)
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0"
    body += struct.pack(">H", len(packed)) + packed
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(message: bytes, size: int) -> bytes:
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in parts)


def test_the_name_in_a_client_hello() -> None:
    assert server_name(hello(b"api.example.com")) == "api.example.com"
    assert server_name(hello(None)) is None
    for wrong in (
        hello(b"api.example.com", (0xFE0D, b"\0" * 40)),  # the real name is encrypted
        hello(b"api.example.com", (0, b"\0\x0c\0\0\x09evil.test")),  # two names
        hello(b"api.example.com") + b"\1",
        hello(b"\xff.example.com"),
        hello(None, (0, b"\0\x18\0\0\x09evil.test\0\0\x09evil.test")),
        hello(None, (0, b"\0\x0c\1\0\x09evil.test")),
        hello(None, (0, b"\0\x0c\0\0\xffevil.test")),
        hello(None, (0, b"")),
        *(hello(b"api.example.com")[:cut] for cut in range(4, 50)),
    ):
        with pytest.raises(NotTls):
            server_name(wrong)


@pytest.mark.parametrize("name", [b"evil.test", b"api.example.com\0.evil.test", b"", None])
async def test_names_that_openssl_would_not_send(site: Site, name: bytes | None) -> None:
    async with site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        await client.send(records(hello(name), 16384))
        assert await client.rest() == ALERT
        client.close()


async def test_a_client_hello_in_many_records_and_pieces(site: Site) -> None:
    got = bytearray()
    wanted = records(hello(b"API.example.com", (21, bytes(4000))), 7)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readexactly(len(wanted)))
        writer.write(b"whole")

    async with site.world.tcp(PUBLIC, 443, listen), site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        for at in range(0, len(wanted), 97):
            await client.send(wanted[at : at + 97])
        assert await client.rest() == b"whole"
        client.close()
    assert got == wanted


async def test_an_endless_client_hello_is_bounded(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        with contextlib.suppress(ConnectionError):
            await client.send(records(b"\1\xff\xff\xff" + bytes(1_000_000), 16384))
        assert (await client.rest())[:7] in {ALERT, b""}
        assert egress.decisions[-1].reason == "the TLS ClientHello is too long"
        client.close()


# --- HTTP -------------------------------------------------------------------------

GET = b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n"
POST = b"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n"
HIDDEN = b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        POST + b"Content-Length: 5, 5\r\n\r\nhello",
        POST + b"Content-Length: +5\r\n\r\nhello",
        POST + b"Content-Length: 0x5\r\n\r\nhello",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length : 5\r\n\r\nhello",
        POST + b"X: y\r\n Content-Length: 5\r\n\r\nhello",
        POST + b"X: y\r\n\tfolded\r\nContent-Length: 5\r\n\r\nhello",
        POST + b"X: y\nContent-Length: 5\r\n\r\nhello",
        POST + b"X: y\rContent-Length: 5\r\n\r\nhello",
        POST + b"X: y\0\r\n\r\n",
        POST + b"X y\r\n\r\n",
        POST + b": y\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GET + b"Host: evil.test\r\n\r\n",
        GET + b"host: api.example.com\r\n\r\n",
        GET.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n",
        GET.replace(b"HTTP/1.1", b"HTTP/1.1 ") + b"\r\n",
        GET.replace(b"GET ", b"GET  ") + b"\r\n",
        GET.replace(b"GET", b"G\xc3\x89T") + b"\r\n",
        GET.replace(b" HTTP/1.1", b"") + b"\r\n",
        b"\r\n" + GET + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
async def test_requests_that_can_be_read_in_two_ways_are_refused(
    site: Site, request_: bytes
) -> None:
    async with site.world.egress(ALLOWED) as egress:
        head, _, rest = request_.partition(b"\r\nHost: api.example.com\r\n")
        line = head + b"\r\nHost: api.example.com\r\n" + credentials(egress)
        client = await Client.open(egress)
        await client.send(line + rest if b"Host: api" in request_ else request_)
        answer = await client.rest()
        assert answer[:10] in {b"HTTP/1.1 4", b"HTTP/1.1 5"}, answer
        assert answer.count(b"HTTP/1.1 ") == 1
        client.close()
    assert site.http.seen == []


@pytest.mark.parametrize(
    "body",
    [b"5\r\nhelloX0\r\n\r\n", b"zz\r\n", b"-5\r\nhello\r\n", b"5\nhello\n0\n\n", b"5\r\nhel"],
)
async def test_a_body_in_bad_chunks_is_never_whole(site: Site, body: bytes) -> None:
    async with site.world.egress(ALLOWED) as egress:
        client = await Client.open(egress)
        fields = b"Transfer-Encoding: chunked\r\n\r\n"
        await client.send(POST, credentials(egress), fields, body)
        client.writer.write_eof()
        assert (await client.rest())[:12] == b"HTTP/1.1 400"
        client.close()
    assert site.http.seen == []


async def test_what_follows_a_body_is_no_request(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress:
        client = await Client.open(egress)
        fields = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        await client.send(POST, credentials(egress), fields, HIDDEN)
        answer = await client.rest()
        client.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1 ") == 1
    assert len(site.http.seen) == 1


async def test_header_fields_for_one_hop_stay_there(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress:
        await say(
            egress,
            b"POST http://api.example.com/ HTTP/1.1",
            b"Host: API.example.com:80",
            b"Connection: x-hop, host, content-length, keep-alive",
            b"X-Hop: 1",
            b"X-End: 2",
            b"Proxy-Connection: keep-alive",
            b"Upgrade: websocket",
            b"TE: trailers",
            b"Keep-Alive: timeout=5",
            b"Content-Length: 5",
            body=b"hello",
        )
    (seen,) = site.http.seen
    assert seen.headers == {"Host": "api.example.com", "X-End": "2", "Content-Length": "5"}
    assert seen.body == b"hello"


async def test_large_heads_are_refused(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress:
        for fields in ([b"X: " + b"y" * 70_000], [b"X: y"] * 200):
            client = await Client.open(egress)
            data = b"".join(part + b"\r\n" for part in fields)
            with contextlib.suppress(ConnectionError):
                await client.send(GET, credentials(egress), data, b"\r\n")
            assert (await client.rest())[:12] == b"HTTP/1.1 431"
            client.close()


async def test_a_server_that_breaks_off_is_never_taken_for_whole(site: Site) -> None:
    answers = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhello",
    ]
    for answer in answers:

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

        async with site.world.tcp(PUBLIC, 80, serve), site.world.egress(ALLOWED) as egress:
            code, out, _ = await curl(egress, "-w", "%{http_code}", "http://api.example.com/")
            # 18: partial file; 56: reset.
            assert code in {18, 56} or out.endswith("502"), (answer, code, out)


async def test_an_early_answer_ends_the_upload(site: Site) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read()

    async with site.world.tcp(PUBLIC, 80, serve), site.world.egress(ALLOWED) as egress:
        client = await Client.open(egress)
        await client.send(POST, credentials(egress), b"Content-Length: 100000000\r\n\r\n", b"x" * 9)
        assert (await client.rest()).endswith(b"big")
        client.close()


# --- floods -----------------------------------------------------------------------


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
