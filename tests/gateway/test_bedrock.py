"""Claude on Amazon Bedrock: signed on the host, under the right name, metered."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway.model.bedrock import Bedrock
from sandboxkit.gateway.model.bedrock_models import BedrockModel, bedrock_id, known_models
from sandboxkit.gateway.model.endpoint import ModelEndpoint
from sandboxkit.gateway.model.server import Request
from sandboxkit.usage import Usage
from tests.gateway.service import BedrockService, KeyedService

KEY, SECRET = "AKIAEXAMPLEEXAMPLE12", "secret-of-the-host"
HAIKU = "anthropic.claude-haiku-4-5-20251001-v1:0"


@pytest.fixture(autouse=True)
def _only_these_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


async def ask(served: ModelEndpoint, model: str, how: str = "invoke-with-response-stream") -> Any:
    env = served.environment("127.0.0.1", served.port)
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(
            f"{env['ANTHROPIC_BEDROCK_BASE_URL']}/model/{model}/{how}",
            json={"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": []},
        )


@pytest.mark.parametrize(
    ("endpoint", "region", "name"),
    [
        ("global", "eu-central-1", f"global.{HAIKU}"),
        ("regional", "eu-central-1", f"eu.{HAIKU}"),
        ("regional", "us-west-2", f"us.{HAIKU}"),
    ],
)
async def test_a_request_is_signed_named_and_metered(endpoint: Any, region: str, name: str) -> None:
    async with BedrockService({KEY: SECRET}, region) as service:
        bedrock = Bedrock(region=region, endpoint=endpoint, base_url=service.url)
        async with ModelEndpoint(bedrock) as served:
            for asked in ("claude-haiku-4-5", HAIKU, f"us.{HAIKU}", f"global.{HAIKU}"):
                answer = await ask(served, asked)
                assert answer.status_code == 200, answer.text
                assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
            calls = list(served.account.meter.calls)
    assert {request.target for request in service.requests} == {
        f"/model/{name.replace(':', '%3A')}/invoke-with-response-stream"
    }
    assert {call.model for call in calls} == {name}
    assert {call.usage for call in calls} == {Usage(12, 3)}
    premium = 1.1 if endpoint == "regional" else 1.0
    assert calls[0].cost_usd == pytest.approx((12 * 1 + 3 * 5) / 1e6 * premium)
    assert calls[0].first_token_s is not None


async def test_a_key_of_bedrocks_own_is_a_bearer_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with KeyedService("authorization", "Bearer a-key-of-bedrock") as service:
        upstream = Bedrock(api_key="a-key-of-bedrock", base_url=service.url)
        async with ModelEndpoint(upstream) as served:
            assert (await ask(served, HAIKU)).status_code == 200
        assert "a-key-of-bedrock" not in repr(upstream)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "of-the-environment")
    request = Request("POST", f"/model/{HAIKU}/invoke", (), b"{}")
    out = await Bedrock().outgoing(request, b"{}")
    assert out.headers["authorization"] == "Bearer of-the-environment"
    # It is never sent to an address that is given.
    out = await Bedrock(base_url="https://mine.example").outgoing(request, b"{}")
    assert "of-the-environment" not in str(out.headers)


async def test_a_wrong_secret_is_the_services_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with BedrockService({KEY: SECRET}, "us-east-1") as service:
        async with ModelEndpoint(Bedrock(base_url=service.url)) as served:
            assert (await ask(served, HAIKU)).status_code == 403


async def test_credentials_that_expire_are_fetched_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    turn = tmp_path / "turn"
    script = tmp_path / "credentials.sh"
    soon = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    script.write_text(
        f"""#!/bin/sh
        if [ -f {turn} ]; then n=2 end={later}; else n=1 end={soon}; touch {turn}; fi
        echo '{{"Version": 1, "AccessKeyId": "AKIA'$n'", "SecretAccessKey": "s'$n'",
               "SessionToken": "t'$n'", "Expiration": "'$end'"}}'
        """
    )
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[profile work]\ncredential_process = {script}\n")
    async with BedrockService({"AKIA1": "s1", "AKIA2": "s2"}, "us-east-1") as service:
        service.tokens = {"AKIA1": "t1", "AKIA2": "t2"}
        async with ModelEndpoint(Bedrock(profile="work", base_url=service.url)) as served:
            for _ in range(2):
                assert (await ask(served, HAIKU)).status_code == 200
    keys = [request.header("authorization")[28:33] for request in service.requests]
    assert keys[-1] == "AKIA2"


async def test_no_credentials_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    async with BedrockService({}, "us-east-1") as service:
        async with ModelEndpoint(Bedrock(base_url=service.url)) as served:
            answer = await ask(served, HAIKU)
            assert answer.status_code == 401
            assert answer.headers["x-should-retry"] == "false"
            assert "AWS_PROFILE" in answer.json()["error"]["message"]
            assert service.requests == []


async def test_neither_key_nor_signature_is_in_the_sandbox() -> None:
    async with BedrockService({KEY: SECRET}, "us-east-1") as service:
        bedrock = Bedrock(base_url=service.url)
        async with ModelEndpoint(bedrock) as served:
            answer = await ask(served, HAIKU)
            env = served.environment("127.0.0.1", served.port)
    seen = f"{answer.headers}{env}{bedrock!r}"
    assert KEY not in seen
    assert SECRET not in seen
    assert served.token not in str(service.requests)


@pytest.mark.parametrize(
    ("asked", "endpoint", "region", "there"),
    [
        ("claude-opus-4-1", "global", "us-east-1", "us.anthropic.claude-opus-4-1-20250805-v1:0"),
        ("claude-opus-4-1", "regional", "eu-west-1", "us.anthropic.claude-opus-4-1-20250805-v1:0"),
        ("claude-haiku-4-5", "regional", "ap-northeast-1", f"eu.{HAIKU}"),
        ("global.anthropic.claude-3-haiku-20240307-v1:0", "global", "us-east-1", "apac."),
    ],
)
def test_what_the_table_rules_out_is_refused_with_what_exists(
    asked: str, endpoint: Any, region: str, there: str
) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        bedrock_id(asked, region=region, endpoint=endpoint, models=known_models())
    assert there in str(caught.value)


async def test_what_the_table_does_not_know_passes_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with BedrockService({KEY: SECRET}, "us-east-1") as service:
        async with ModelEndpoint(Bedrock(base_url=service.url)) as served:
            with caplog.at_level(logging.WARNING):
                assert (await ask(served, "us.anthropic.claude-next-9")).status_code == 200
    assert "claude-next-9" in caplog.text
    assert service.requests[0].target.startswith("/model/us.anthropic.claude-next-9/")


def test_a_user_adds_to_the_table() -> None:
    bedrock = Bedrock(
        region="eu-west-1",
        models={"claude-next": BedrockModel("anthropic.claude-next-v1:0", frozenset({"global"}))},
    )
    assert bedrock.model_name("claude-next") == "global.anthropic.claude-next-v1:0"


async def test_betas_are_passed_on_as_they_come() -> None:
    body = b'{"anthropic_beta": ["context-1m-2025-08-07"],  "max_tokens": 9, "messages": []}'
    async with BedrockService({KEY: SECRET}, "us-east-1") as service:
        async with ModelEndpoint(Bedrock(base_url=service.url)) as served:
            base = served.environment("127.0.0.1", served.port)["ANTHROPIC_BEDROCK_BASE_URL"]
            async with httpx.AsyncClient(trust_env=False) as client:
                path = f"/model/{HAIKU}/invoke-with-response-stream"
                headers = {"anthropic-beta": "context-1m-2025-08-07"}
                answer = await client.post(f"{base}{path}", content=body, headers=headers)
                assert answer.status_code == 200
    (request,) = service.requests
    assert request.body == body
    assert request.header("anthropic-beta") == "context-1m-2025-08-07"


@pytest.mark.parametrize(
    "path",
    [
        "/model/amazon.titan/converse",
        "/guardrail/x/version/1/apply",
        "/model/a/b/invoke",
        "/foundation-models",
    ],
)
async def test_nothing_else_of_aws_is_signed(path: str) -> None:
    async with BedrockService({KEY: SECRET}, "us-east-1") as service:
        async with ModelEndpoint(Bedrock(base_url=service.url)) as served:
            env = served.environment("127.0.0.1", served.port)
            async with httpx.AsyncClient(trust_env=False) as client:
                base = env["ANTHROPIC_BEDROCK_BASE_URL"]
                assert (await client.post(f"{base}{path}", json={})).status_code == 403
        assert service.requests == []


async def test_the_profiles_of_the_region_are_passed_on() -> None:
    async with BedrockService({KEY: SECRET}, "us-east-1") as service:
        async with ModelEndpoint(Bedrock(base_url=service.url)) as served:
            env = served.environment("127.0.0.1", served.port)
            async with httpx.AsyncClient(trust_env=False) as client:
                base = env["ANTHROPIC_BEDROCK_BASE_URL"]
                await client.get(f"{base}/inference-profiles?type=SYSTEM_DEFINED")
        assert json.loads(service.requests[0].body or b"{}") == {}
        assert service.requests[0].target == "/inference-profiles?type=SYSTEM_DEFINED"
        assert served.account.meter.total.requests == 0
