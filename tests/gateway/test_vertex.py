"""Claude on Vertex AI: the token is added on the host, and fetched again when it expires."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError

from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway.model.account import Account
from sandboxkit.gateway.model.endpoint import ModelEndpoint
from sandboxkit.gateway.model.vertex import Vertex
from sandboxkit.usage import Usage
from tests.gateway.service import KeyedService

PROJECT, REGION = "my-project", "europe-west1"
MODEL = "claude-haiku-4-5@20251001"


class Tokens(Credentials):
    """Each of its tokens is good until it is told that it is not."""

    def __init__(self, *tokens: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = list(tokens)
        self.token: str | None = None

    @property
    def valid(self) -> bool:
        return self.token is not None

    def refresh(self, request: object) -> None:
        if not self.left:
            raise RefreshError("the secret of the refresh")  # type: ignore[no-untyped-call]
        self.token = self.left.pop(0)


def vertex(service: KeyedService, credentials: Tokens) -> Vertex:
    base = f"{service.url}/v1"
    return Vertex(project=PROJECT, region=REGION, base_url=base, credentials=credentials)


async def ask(served: ModelEndpoint, model: str = MODEL, how: str = "streamRawPredict") -> Any:
    env = served.environment("127.0.0.1", served.port)
    place = f"projects/{env['ANTHROPIC_VERTEX_PROJECT_ID']}/locations/{env['CLOUD_ML_REGION']}"
    body: dict[str, Any] = {"anthropic_version": "vertex-2023-10-16", "messages": []}
    if model == "count-tokens":
        body["model"] = MODEL
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(
            f"{env['ANTHROPIC_VERTEX_BASE_URL']}/{place}/publishers/anthropic/models/{model}:{how}",
            json=body,
        )


@pytest.mark.parametrize("how", ["streamRawPredict", "rawPredict"])
async def test_a_request_has_the_token_and_is_metered(how: str) -> None:
    async with KeyedService("authorization", "Bearer one") as service:
        upstream = vertex(service, Tokens("one"))
        async with ModelEndpoint(upstream) as served:
            answer = await ask(served, how=how)
            assert answer.status_code == 200, answer.text
            env = served.environment("127.0.0.1", served.port)
    assert "one" not in {*env.values()}
    assert "one" not in repr(upstream)
    (request,) = service.requests
    assert request.target == (
        f"/v1/projects/{PROJECT}/locations/{REGION}/publishers/anthropic/models/{MODEL}:{how}"
    )
    assert served.token not in str(request)
    (call,) = served.account.meter.calls
    assert (call.model, call.usage, call.complete) == (MODEL, Usage(12, 3), True)
    assert call.cost_usd == pytest.approx((12 * 1 + 3 * 5) / 1e6)


async def test_a_token_that_expires_is_fetched_again() -> None:
    credentials = Tokens("one", "two")
    async with KeyedService("authorization", "Bearer one") as service:
        async with ModelEndpoint(vertex(service, credentials)) as served:
            assert (await ask(served)).status_code == 200
            assert (await ask(served)).status_code == 200
            credentials.token, service.keys = None, {"Bearer two"}
            assert (await ask(served)).status_code == 200
            credentials.token = None
            refused = await ask(served)
    assert refused.status_code == 401
    assert "gcloud auth" in refused.json()["error"]["message"]
    assert "secret" not in refused.text
    assert len(service.requests) == 3


async def test_tokens_can_be_counted_of_models_that_are_allowed() -> None:
    account = Account(models=("claude-haiku-*",))
    async with KeyedService("authorization", "Bearer one") as service:
        async with ModelEndpoint(vertex(service, Tokens("one")), account) as served:
            assert (await ask(served, "count-tokens", "rawPredict")).status_code == 200
            assert (await ask(served, "claude-opus-4-1@20250805")).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        f"projects/another/locations/{REGION}/publishers/anthropic/models/{MODEL}:rawPredict",
        f"projects/{PROJECT}/locations/us-east5/publishers/anthropic/models/{MODEL}:rawPredict",
        f"projects/{PROJECT}/locations/{REGION}/publishers/google/models/gemini:rawPredict",
        f"projects/{PROJECT}/locations/{REGION}/endpoints",
        f"projects/{PROJECT}/locations/{REGION}/publishers/anthropic/models/..%2f{MODEL}:predict",
    ],
)
async def test_nothing_else_of_the_project_is_reached(path: str) -> None:
    async with KeyedService("authorization", "Bearer one") as service:
        async with ModelEndpoint(vertex(service, Tokens("one"))) as served:
            env = served.environment("127.0.0.1", served.port)
            async with httpx.AsyncClient(trust_env=False) as client:
                base = env["ANTHROPIC_VERTEX_BASE_URL"]
                assert (await client.post(f"{base}/{path}", json={})).status_code == 403
        assert service.requests == []


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("europe-west1", "europe-west1-aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
async def test_the_address_is_that_of_googles_own_client(region: str, host: str) -> None:
    from anthropic.lib.vertex import AnthropicVertex

    from sandboxkit.gateway.model.server import Request

    upstream = Vertex(project=PROJECT, region=region, credentials=Tokens("one"))
    out = await upstream.outgoing(Request("POST", "/projects/x", (), b"{}"), b"{}")
    assert out.url == f"https://{host}/v1/projects/x"
    with AnthropicVertex(region=region, project_id=PROJECT, access_token="x") as theirs:
        assert out.url.startswith(str(theirs.base_url).rstrip("/"))


def test_names_have_their_date_after_an_at() -> None:
    upstream = Vertex(project=PROJECT, region=REGION)
    assert upstream.model_name("claude-haiku-4-5-20251001") == MODEL
    assert upstream.model_name(MODEL) == MODEL
    assert upstream.model_name("claude-opus-5") == "claude-opus-5"
    with pytest.raises(InvalidSpecError, match="region"):
        Vertex(project=PROJECT, region="").check()
