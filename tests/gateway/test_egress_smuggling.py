"""A hostile sandbox at the egress proxy: requests that can be read in two ways."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.gateway.conftest import Site
from tests.gateway.world import PUBLIC, Client, credentials, curl, say

ALLOWED = ["api.example.com", "*.example.org"]


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
