"""The way from the sandbox to the model: which service, and what is known inside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sandboxkit.agents.claude_code.model import model_route, upstream_for
from sandboxkit.errors import AuthenticationError, UnsupportedError
from sandboxkit.gateway.model.account import Account
from sandboxkit.gateway.model.anthropic import Anthropic
from sandboxkit.gateway.model.bedrock import Bedrock
from sandboxkit.gateway.model.endpoint import ModelEndpoint
from sandboxkit.gateway.model.foundry import Foundry
from sandboxkit.gateway.model.vertex import Vertex
from tests.agents.certificate import server_context
from tests.gateway.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from sandboxkit.sandbox import Sandbox

KEY = "the-real-key"


async def test_inside_there_is_a_token_and_no_key(sandbox: Sandbox) -> None:
    script = """
import json, os, urllib.request
headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
body = json.dumps({"model": "claude-haiku-4-5"}).encode()
print(urllib.request.urlopen(urllib.request.Request(url, body, headers)).read().decode())
"""
    account = Account()
    async with Service() as service:
        upstream = Anthropic(api_key=KEY, base_url=service.url)
        async with model_route(sandbox, upstream, account, web=False) as env:
            assert KEY not in str(env)
            done = await sandbox.exec(["python3", "-c", script], env=env)
        assert "message_stop" in done.check().text
        assert KEY in str(service.requests[0].headers)
    assert account.meter.total.requests == 1


async def test_tls_is_spoken_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, authority = await asyncio.to_thread(server_context, tmp_path)
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert (await asked(url)).status_code == 502
        assert not heads
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert (await asked(url)).text == "ok"
    finally:
        server.close()
    assert KEY.encode() in heads[0]


async def asked(url: str) -> httpx.Response:
    async with (
        ModelEndpoint(Anthropic(api_key=KEY, base_url=url)) as endpoint,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        base = endpoint.environment("127.0.0.1", endpoint.port)["ANTHROPIC_BASE_URL"]
        return await client.post(f"{base}/v1/messages", json={"model": "claude-haiku-4-5"})


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_URL", "API_KEY", "AUTH_TOKEN"):
        monkeypatch.delenv(f"ANTHROPIC_{name}", raising=False)


@pytest.mark.usefixtures("_clean")
def test_where_the_model_and_its_key_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationError, match="Set ANTHROPIC_API_KEY"):
        upstream_for({})
    monkeypatch.setenv("ANTHROPIC_API_KEY", "of-the-environment")
    assert upstream_for({}) == Anthropic(api_key="of-the-environment")
    assert upstream_for({"ANTHROPIC_API_KEY": "mine"}) == Anthropic(api_key="mine")
    # An address that the caller gives is never sent the key of the environment.
    given = upstream_for({}, model_url="http://10.0.0.1:1/x/")
    assert given == Anthropic(base_url="http://10.0.0.1:1/x/")
    assert "of-the-environment" not in repr(given)
    assert upstream_for({}, model_url="http://h", api_key="k") == Anthropic(
        api_key="k", base_url="http://h"
    )
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "t")
    assert upstream_for({}) == Anthropic(auth_token="t")
    with pytest.raises(UnsupportedError, match="CLAUDE_CODE_OAUTH_TOKEN"):
        upstream_for({"CLAUDE_CODE_OAUTH_TOKEN": "secret"})


@pytest.mark.parametrize(
    ("env", "service"),
    [
        (
            {"CLAUDE_CODE_USE_BEDROCK": "1", "AWS_REGION": "eu-west-1"},
            Bedrock(region="eu-west-1"),
        ),
        (
            {
                "CLAUDE_CODE_USE_VERTEX": "true",
                "ANTHROPIC_VERTEX_PROJECT_ID": "p",
                "CLOUD_ML_REGION": "global",
            },
            Vertex(project="p", region="global"),
        ),
        (
            {
                "CLAUDE_CODE_USE_FOUNDRY": "1",
                "ANTHROPIC_FOUNDRY_RESOURCE": "mine",
                "ANTHROPIC_FOUNDRY_API_KEY": "k",
            },
            Foundry(resource="mine", api_key="k"),
        ),
    ],
)
def test_the_clis_own_variables_choose_the_service(env: dict[str, str], service: Any) -> None:
    assert upstream_for(env) == service
