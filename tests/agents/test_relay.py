"""The way to the model: the key is added on the host, and nothing else passes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from sandboxkit.agents.claude_code.credentials import ModelEndpoint, model_endpoint, model_route
from sandboxkit.agents.claude_code.relay import Relay
from sandboxkit.errors import AuthenticationError, UnsupportedError
from tests.agents.certificate import server_context

if TYPE_CHECKING:
    from pathlib import Path

    from sandboxkit.sandbox import Sandbox

KEY = "the-real-key"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def upstream(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """A server on loopback that does what `handler` does."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Echo:
    """Answers each request with what it got; keeps the connection."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            body = b""
            if "content-length" in head:
                length = head.partition("content-length: ")[2].partition("\r\n")[0]
                body = await reader.readexactly(int(length))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def ask(relay: Relay, *requests: bytes) -> bytes:
    """Send requests over one connection; all that comes back until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        for request in requests:
            writer.write(request)
            await writer.drain()
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def one_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return await reader.readexactly(length)


def request(relay: Relay, path: str = "/v1/messages", body: bytes = b"", **more: str) -> bytes:
    fields = {"host": "127.0.0.1", "x-api-key": relay.token, "content-length": str(len(body))}
    lines = [f"{name}: {value}\r\n" for name, value in {**fields, **more}.items() if value]
    return f"POST {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + body


async def test_the_key_is_put_in_the_place_of_the_token() -> None:
    echo = Echo()
    async with (
        upstream(echo) as port,
        Relay(f"http://127.0.0.1:{port}/base", {"x-api-key": KEY}) as relay,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(request(relay, "/base/v1/messages?beta=true", b"first", authorization="x"))
        assert await one_answer(reader) == b"first"
        writer.write(request(relay, "/base/v1/messages", b"second"))
        assert await one_answer(reader) == b"second"
        writer.close()

    assert echo.connections == 1
    for head in echo.heads:
        assert f"x-api-key: {KEY}\r\n" in head
        assert f"host: 127.0.0.1:{port}\r\n" in head
        assert "authorization" not in head
        assert relay.token not in head
    assert echo.heads[0].startswith("POST /base/v1/messages?beta=true HTTP/1.1\r\n")


async def test_tls_is_spoken_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, authority = await asyncio.to_thread(server_context, tmp_path)
    echo = Echo()
    async with upstream(echo, context) as port:
        async with Relay(f"https://127.0.0.1:{port}", {"x-api-key": KEY}) as relay:
            answer = await ask(relay, request(relay, body=b"secret?"))
            assert b"502 Bad Gateway" in answer
            assert not echo.heads
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with Relay(f"https://127.0.0.1:{port}", {"x-api-key": KEY}) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(request(relay, body=b"encrypted"))
            assert await one_answer(reader) == b"encrypted"
            writer.close()
    assert KEY in echo.heads[0]


@pytest.mark.parametrize(
    ("path", "change", "status"),
    [
        ("/v1/messages", {"x-api-key": "guessed"}, b"401"),
        ("/v1/messages", {"x-api-key": ""}, b"401"),
        ("/v1/files", {}, b"403"),
        ("/v1/messages/batches", {}, b"403"),
        ("/v1/messages/../files", {}, b"403"),
        ("http://elsewhere/v1/messages", {}, b"403"),
        ("/v1/messages", {"transfer-encoding": "chunked"}, b"400"),
        ("/v1/messages", {"content-length": "-1"}, b"400"),
        ("/v1/messages", {"bad name": "x"}, b"400"),
        ("/v1/messages", {"x-long": "x" * 70_000}, b"431"),
    ],
)
async def test_what_does_not_pass(path: str, change: dict[str, str], status: bytes) -> None:
    echo = Echo()
    async with (
        upstream(echo) as port,
        Relay(f"http://127.0.0.1:{port}", {"x-api-key": KEY}) as relay,
    ):
        answer = await ask(relay, request(relay, path, b"", **change))

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert not echo.heads


async def test_an_answer_comes_as_it_is_made_and_a_hang_up_crosses() -> None:
    hung_up = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst piece")
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
        hung_up.set()

    async with (
        upstream(stream) as port,
        Relay(f"http://127.0.0.1:{port}", {"x-api-key": KEY}) as relay,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(request(relay))
        assert await asyncio.wait_for(reader.readuntil(b"first piece"), 10)
        writer.transport.abort()
        await asyncio.wait_for(hung_up.wait(), 10)


async def test_a_model_that_cannot_be_reached_is_told() -> None:
    async with upstream(Echo()) as port:
        pass
    async with Relay(f"http://127.0.0.1:{port}", {"x-api-key": KEY}) as relay:
        assert b"502 Bad Gateway" in await ask(relay, request(relay))


async def test_inside_there_is_a_token_and_no_key(sandbox: Sandbox) -> None:
    echo = Echo()
    script = """
import os, sys, urllib.request
headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
print(urllib.request.urlopen(urllib.request.Request(url, b"from inside", headers)).read().decode())
"""
    async with upstream(echo) as port:
        endpoint = ModelEndpoint(f"http://127.0.0.1:{port}", {"x-api-key": KEY})
        assert KEY not in repr(endpoint)
        async with model_route(sandbox, endpoint) as env:
            assert KEY not in str(env)
            done = await sandbox.exec(["python3", "-c", script], env=env)
            assert done.check().text == "from inside\n"
    assert KEY in echo.heads[0]


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_URL", "API_KEY", "AUTH_TOKEN"):
        monkeypatch.delenv(f"ANTHROPIC_{name}", raising=False)


@pytest.mark.usefixtures("_clean")
def test_where_the_model_and_its_key_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationError, match="Set ANTHROPIC_API_KEY"):
        model_endpoint({})
    monkeypatch.setenv("ANTHROPIC_API_KEY", "of-the-environment")
    assert model_endpoint({}) == ModelEndpoint(
        "https://api.anthropic.com", {"x-api-key": "of-the-environment"}
    )
    assert model_endpoint({"ANTHROPIC_API_KEY": "mine"}).headers == {"x-api-key": "mine"}
    # An address that the caller gives is never sent the key of the environment.
    assert model_endpoint({}, model_url="http://10.0.0.1:1/x/") == ModelEndpoint(
        "http://10.0.0.1:1/x"
    )
    assert model_endpoint({}, model_url="http://h", api_key="k").headers == {"x-api-key": "k"}
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "t")
    assert model_endpoint({}).headers == {"authorization": "Bearer t"}
    with pytest.raises(UnsupportedError, match="CLAUDE_CODE_OAUTH_TOKEN"):
        model_endpoint({"CLAUDE_CODE_OAUTH_TOKEN": "secret"})
