"""Claude on Microsoft Foundry: as Anthropic's own client for it speaks, with the host's key."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from anthropic import AnthropicFoundry

from sandboxkit.errors import AuthenticationError, InvalidSpecError
from sandboxkit.gateway.model.endpoint import ModelEndpoint
from sandboxkit.gateway.model.foundry import Foundry
from sandboxkit.gateway.model.server import Request
from sandboxkit.usage import Usage
from tests.gateway.service import KeyedService

BODY: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESOURCE", "BASE_URL", "API_KEY", "AUTH_TOKEN"):
        monkeypatch.delenv(f"ANTHROPIC_FOUNDRY_{name}", raising=False)


async def ask(served: ModelEndpoint) -> httpx.Response:
    env = served.environment("127.0.0.1", served.port)
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(
            f"{env['ANTHROPIC_FOUNDRY_BASE_URL']}/v1/messages",
            json=BODY,
            headers={"authorization": "Bearer skip-foundry-auth"},
        )


async def test_a_request_has_the_key_and_is_metered() -> None:
    async with KeyedService("x-api-key", "the-key") as service:
        upstream = Foundry(base_url=f"{service.url}/anthropic/", api_key="the-key")
        async with ModelEndpoint(upstream) as served:
            assert (await ask(served)).status_code == 200
    (request,) = service.requests
    assert request.target == "/anthropic/v1/messages"
    assert request.header("api-key") == "the-key"
    assert not request.header("authorization")
    assert "the-key" not in repr(upstream)
    (call,) = served.account.meter.calls
    assert (call.usage, call.complete) == (Usage(12, 3), True)
    assert call.cost_usd == pytest.approx((12 * 1 + 3 * 5) / 1e6)


@pytest.mark.parametrize("kind", ["blocking", "async"])
async def test_a_token_is_asked_for_with_each_request(kind: str) -> None:
    tokens = iter(["one", "two"])

    async def later() -> str:
        return next(tokens)

    def now() -> str:
        return next(tokens)

    async with KeyedService("authorization", "Bearer one", "Bearer two") as service:
        upstream = Foundry(base_url=service.url, token_provider=later if kind == "async" else now)
        async with ModelEndpoint(upstream) as served:
            assert (await ask(served)).status_code == 200
            assert (await ask(served)).status_code == 200
            refused = await ask(served)  # there are no more
    assert [request.header("authorization") for request in service.requests] == [
        "Bearer one",
        "Bearer two",
    ]
    assert refused.status_code == 401
    assert "Microsoft Foundry" in refused.json()["error"]["message"]


async def test_the_address_and_the_headers_are_those_of_anthropics_client() -> None:
    upstream = Foundry(resource="my-resource", api_key="the-key")
    upstream.check()
    out = await upstream.outgoing(Request("POST", "/v1/messages", (), b"{}"), b"{}")
    with AnthropicFoundry(resource="my-resource", api_key="the-key") as theirs:
        assert out.url == f"{str(theirs.base_url).rstrip('/')}/v1/messages"
    assert {out.headers["x-api-key"], out.headers["api-key"]} == {"the-key"}


async def test_the_environment_is_that_of_anthropics_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InvalidSpecError, match="ANTHROPIC_FOUNDRY_RESOURCE"):
        Foundry().check()
    with pytest.raises(InvalidSpecError, match="not both"):
        Foundry(resource="ab", base_url="https://x").check()
    with pytest.raises(InvalidSpecError, match="not the name"):
        Foundry(resource="https://evil").check()
    monkeypatch.setenv("ANTHROPIC_FOUNDRY_RESOURCE", "of-the-environment")
    with pytest.raises(AuthenticationError, match="ANTHROPIC_FOUNDRY_API_KEY"):
        Foundry().check()
    monkeypatch.setenv("ANTHROPIC_FOUNDRY_API_KEY", "its-key")
    request = Request("POST", "/v1/messages", (), b"{}")
    out = await Foundry().outgoing(request, b"{}")
    assert out.url == "https://of-the-environment.services.ai.azure.com/anthropic/v1/messages"
    assert out.headers["x-api-key"] == "its-key"
    # The environment's key is never sent to an address that is given.
    out = await Foundry(base_url="https://mine.example").outgoing(request, b"{}")
    assert "its-key" not in str(out.headers)
