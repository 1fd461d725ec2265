"""The real CLI without a network, over each of the services: what it asks, what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from claude_agent_sdk import ClaudeAgentOptions

from sandboxkit.agents.base import RunResult
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.messages import Messages
from sandboxkit.gateway.model.bedrock import Bedrock
from sandboxkit.gateway.model.foundry import Foundry
from sandboxkit.gateway.model.meter import Sum
from sandboxkit.gateway.model.upstream import Upstream
from sandboxkit.gateway.model.vertex import Vertex
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import Reply, ScriptedModel, call, say
from sandboxkit.usage import Usage
from tests.agents.cloud import ScriptedBedrock, ScriptedMessages
from tests.gateway.test_vertex import Tokens

SECRET = "the-secret-of-the-host"
LOOK = "env; cat /proc/*/environ 2>/dev/null; grep -rs secret ~; true"


def script() -> ScriptedModel:
    return ScriptedModel(
        [
            Reply([call("Bash", command=LOOK)], input_tokens=1000, output_tokens=50),
            Reply([say("Done.")], input_tokens=200, output_tokens=5, cache_read_tokens=2000),
        ]
    )


async def run(sandbox: Sandbox, upstream: Upstream, model: str) -> tuple[RunResult, Session]:
    assert sandbox.info.effective.network == "none"
    options = ClaudeAgentOptions(permission_mode="bypassPermissions", model=model)
    agent = ClaudeCode(options, upstream=upstream)
    async with Session(sandbox, agent=agent) as session:
        result = await session.run("Look around")
        return result, session


def seen(model: ScriptedModel) -> str:
    """What the agent saw in there."""
    return "".join(result.text for result in model.requests[1].tool_results)


def check(result: RunResult, model: ScriptedModel, cost_usd: float) -> None:
    assert (result.text, result.is_error) == ("Done.", False), result
    assert not model.unused
    assert isinstance(result.metered, Sum)
    assert result.metered.usage == Usage(1200, 55, 2000)
    assert result.metered.usage == result.usage
    assert result.metered.cost_usd == pytest.approx(cost_usd)
    assert result.metered.unpriced == 0
    assert SECRET not in seen(model)
    assert "CLAUDE_CODE" in seen(model)  # it did look


@pytest.mark.parametrize("endpoint", ["global", "regional"])
async def test_bedrock(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE12")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    async with script() as model:
        async with ScriptedBedrock(model, {"AKIAEXAMPLEEXAMPLE12": SECRET}, "eu-west-1") as service:
            upstream = Bedrock(
                region="eu-west-1",
                endpoint="global" if endpoint == "global" else "regional",
                base_url=service.url,
            )
            result, session = await run(sandbox, upstream, "claude-haiku-4-5")
    prefix = "global" if endpoint == "global" else "eu"
    name = f"{prefix}.anthropic.claude-haiku-4-5-20251001-v1:0"
    assert name in session.meter.by_model
    premium = 1.0 if endpoint == "global" else 1.1
    check(result, model, (1200 * 1 + 2000 * 0.1 + 55 * 5) / 1e6 * premium)


async def test_vertex(sandbox: Sandbox) -> None:
    async with script() as model:
        async with ScriptedMessages(model, "authorization", f"Bearer {SECRET}") as service:
            upstream = Vertex(
                project="my-project",
                region="europe-west1",
                base_url=f"{service.url}/v1",
                credentials=Tokens(SECRET),
            )
            result, session = await run(sandbox, upstream, "claude-haiku-4-5-20251001")
    assert "claude-haiku-4-5@20251001" in session.meter.by_model
    check(result, model, (1200 * 1 + 2000 * 0.1 + 55 * 5) / 1e6)


async def test_foundry(sandbox: Sandbox) -> None:
    async with script() as model:
        async with ScriptedMessages(model, "x-api-key", SECRET) as service:
            upstream = Foundry(base_url=f"{service.url}/anthropic", api_key=SECRET)
            result, session = await run(sandbox, upstream, "claude-haiku-4-5")
    assert "claude-haiku-4-5" in session.meter.by_model
    check(result, model, (1200 * 1 + 2000 * 0.1 + 55 * 5) / 1e6)


async def test_the_messages_agent_over_foundry(sandbox: Sandbox) -> None:
    model = ScriptedModel(
        [
            Reply([call("bash", command=LOOK)], input_tokens=1000, output_tokens=50),
            Reply([say("Done.")], input_tokens=200, output_tokens=5, cache_read_tokens=2000),
        ]
    )
    async with model, ScriptedMessages(model, "x-api-key", SECRET) as service:
        upstream = Foundry(base_url=f"{service.url}/anthropic", api_key=SECRET)
        agent = Messages(model="claude-haiku-4-5", upstream=upstream)
        async with Session(sandbox, agent=agent) as session:
            result = await session.run("Look around")
    assert SECRET not in seen(model)
    assert (result.text, result.usage) == ("Done.", Usage(1200, 55, 2000))
    assert result.metered is not None
    assert result.metered.cost_usd == pytest.approx((1200 * 1 + 2000 * 0.1 + 55 * 5) / 1e6)
