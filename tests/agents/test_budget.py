"""A budget stops an agent in a loop within one request, and it goes on when it is raised."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from claude_agent_sdk import ClaudeAgentOptions

from sandboxkit.agents.base import RunResult
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.events import Event, Finished, Retry
from sandboxkit.errors import AgentError, BudgetExceededError
from sandboxkit.gateway.model.bedrock import Bedrock
from sandboxkit.gateway.model.budget import Budget
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, call, fail, say
from sandboxkit.testing.scripted_model.steps import Step
from tests.agents.cloud import ScriptedBedrock


def for_ever(request: ModelRequest) -> Step:
    """An agent that would go on until its user is poor."""
    if request.last_text.endswith("Enough"):
        return Reply([say("I stop.")], input_tokens=10, output_tokens=5)
    return Reply([call("Bash", command="true")], input_tokens=1000, output_tokens=100)


def claude(url: str) -> ClaudeCode:
    options = ClaudeAgentOptions(permission_mode="bypassPermissions", model="claude-haiku-4-5")
    return ClaudeCode(options, model_url=url)


COST = (1000 * 1 + 100 * 5) / 1e6


@pytest.mark.parametrize(
    ("limits", "requests"),
    [({"usd": 2.5 * COST}, 3), ({"tokens": 2000}, 2), ({"requests": 4}, 4)],
    ids=["dollars", "tokens", "requests"],
)
async def test_a_loop_is_stopped_and_goes_on(
    sandbox: Sandbox, limits: dict[str, float], requests: int
) -> None:
    budget = Budget()
    budget.allow(**limits)
    async with ScriptedModel(for_ever) as model:
        async with Session(sandbox, agent=claude(model.url), budget=budget) as session:
            stopped = await session.run("Go on for ever")
            assert len(model.requests) == requests
            again = await session.run("Go on")
            assert len(model.requests) == requests
            budget.allow(**{name: 10 * limit for name, limit in limits.items()})
            done = await session.run("Enough")
    (name,) = limits
    for result in (stopped, again):
        assert (result.stop_reason, result.is_error) == ("max_budget", True)
        assert isinstance(result.over_budget, BudgetExceededError)
        assert result.over_budget.limit == name
        assert result.over_budget.allowed == limits[name]
        assert result.over_budget.spent[name] >= limits[name]
        assert "by the host, not by the service" in result.errors[0]
        assert "authenticate" not in result.errors[0]
    assert (done.text, done.is_error, done.over_budget) == ("I stop.", False, None)
    assert session.meter.total.failed == 0


async def test_an_outage_is_no_budget(sandbox: Sandbox) -> None:
    async with ScriptedModel([fail(403, "no entrance")]) as model:
        async with Session(sandbox, agent=claude(model.url), budget=Budget(requests=9)) as session:
            result = await session.run("Hello")
    assert (result.stop_reason, result.over_budget) == ("error", None)


async def test_time_is_a_budget_too(sandbox: Sandbox) -> None:
    budget = Budget(wall_s=0)
    async with ScriptedModel([say("Hello.")]) as model:
        async with Session(sandbox, agent=claude(model.url), budget=budget) as session:
            stopped = await session.run("Hello")
            budget.allow(wall_s=None)
            done = await session.run("Hello")
    assert stopped.over_budget is not None
    assert (stopped.over_budget.limit, done.text) == ("wall_s", "Hello.")


async def test_over_bedrock_it_is_the_same(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE12")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    options = ClaudeAgentOptions(permission_mode="bypassPermissions", model="claude-haiku-4-5")
    async with ScriptedModel(for_ever) as model:
        async with ScriptedBedrock(
            model, {"AKIAEXAMPLEEXAMPLE12": "secret"}, "eu-west-1"
        ) as service:
            upstream = Bedrock(region="eu-west-1", base_url=service.url)
            agent = ClaudeCode(options, upstream=upstream)
            async with Session(sandbox, agent=agent, budget=Budget(requests=2)) as session:
                events: list[Event] = [event async for event in session.stream("Go on")]
    assert not [event for event in events if isinstance(event, Retry)]
    assert isinstance(events[-1], Finished)
    assert events[-1].result.over_budget is not None
    assert len(model.requests) == 2


async def test_two_sessions_share_a_budget(sandbox: Sandbox) -> None:
    budget = Budget(requests=5)

    async def one(url: str) -> RunResult:
        async with Session(sandbox, agent=claude(url), budget=budget) as session:
            return await session.run("Go on for ever")

    async with ScriptedModel(for_ever) as model:
        results = await asyncio.gather(one(model.url), one(model.url))
    assert [result.stop_reason for result in results] == ["max_budget"] * 2
    assert len(model.requests) == 5 == budget.spent["requests"]


def test_it_is_an_error_of_the_agent() -> None:
    assert issubclass(BudgetExceededError, AgentError)
