"""The scripted model as an HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from sandboxkit.testing import Reply, ScriptedModel, fail, say
from tests.testing.messages_client import HELLO, ask, client_of, text_of


async def test_probes() -> None:
    async with ScriptedModel([]) as model, client_of(model) as client:
        assert (await client.head("/api/hello")).status_code == 200
        assert (await client.get("/")).status_code == 200
        missing = await client.get("/v1/models")
        assert missing.status_code == 404
        assert missing.json()["error"]["type"] == "not_found_error"
    assert not model.exhausted


async def test_one_connection_serves_many_requests() -> None:
    addresses: set[object] = set()
    async with ScriptedModel([say("a"), say("b"), fail(500)]) as model, client_of(model) as client:
        for stream in (False, True, False):
            response = await ask(client, stream=stream)
            connection = response.extensions["network_stream"]
            addresses.add(connection.get_extra_info("client_addr"))
    assert len(addresses) == 1


async def test_a_request_may_be_sent_before_the_last_answer() -> None:
    body = json.dumps(HELLO).encode()
    one = b"POST /v1/messages HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with ScriptedModel(
        [say("one"), Reply([say("two")], delay_s=0.01), say("three")]
    ) as model:
        host, port = model.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(one + one + last)
        answers = await reader.read()
        writer.close()
        await writer.wait_closed()
    texts = [f'"text":"{text}"'.encode() for text in ("one", "two", "three")]
    assert [answers.count(text) for text in texts] == [1, 1, 1]
    assert not model.hang_ups


async def test_a_body_may_come_in_chunks() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        body = json.dumps({**HELLO, "system": "x" * 200_000}).encode()
        for start in range(0, len(body), 70_000):
            yield body[start : start + 70_000]

    async with ScriptedModel([say("one"), say("two")]) as model, client_of(model) as client:
        response = await client.post("/v1/messages", content=pieces())
        assert response.status_code == 200
        assert await text_of(client) == "two"
    assert len(model.requests[0].system[0].text) == 200_000


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nX: " + b"x" * 100_000,
        b"POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_refused(head: bytes) -> None:
    async with ScriptedModel([say("one")]) as model:
        host, port = model.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()
        async with client_of(model) as client:
            assert await text_of(client) == "one"
