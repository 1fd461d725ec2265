"""Where the time of a turn went: parts that add up, also with the real CLI."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions

from sandboxkit.agents.base import Agent
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.latency import Latency, breakdown
from sandboxkit.agents.messages import Messages
from sandboxkit.gateway.model.meter import ModelCall
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import Reply, ScriptedModel, call, fail, say


def asked(began: float, total: float, first: float | None = None, **fields: Any) -> ModelCall:
    given: dict[str, Any] = {"status": 200, "queued_s": 0.0, "refused": None, **fields}
    return ModelCall(
        at=datetime.now(UTC),
        began=began,
        model="m",
        usage=None,
        cost_usd=None,
        first_byte_s=first,
        first_token_s=first,
        total_s=total,
        complete=True,
        **given,
    )


def parts(latency: Latency) -> float:
    return (
        latency.machine_s
        + latency.queue_s
        + latency.model_wait_s
        + latency.generation_s
        + latency.tools_s
        + latency.other_s
    )


def test_a_turn_with_a_tool() -> None:
    calls = [asked(11, 4, 1), asked(20, 5, 2, queued_s=1)]
    latency = breakdown((10, 30), first_token=12.5, calls=calls, tools=[(15, 19)])
    assert latency == Latency(
        first_token_s=2.5,
        total_s=20,
        tools_s=4,
        queue_s=1,
        model_wait_s=1 + 2,
        generation_s=3 + 3,
        other_s=1 + 1 + 4,
    )
    assert parts(latency) == latency.total_s
    later = latency.after(3)
    assert (later.machine_s, later.first_token_s, later.total_s) == (3, 5.5, 23)
    assert parts(later) == later.total_s


def test_what_goes_on_at_once_counts_once() -> None:
    calls = [asked(0, 10, 5), asked(2, 10, 1)]  # two sub-agents, in a tool call of the agent
    latency = breakdown((0, 20), first_token=None, calls=calls, tools=[(0, 15)])
    assert (latency.model_wait_s, latency.generation_s, latency.tools_s) == (3, 9, 3)
    assert parts(latency) == latency.total_s == 20


def test_failures_and_the_pauses_after_them_are_a_queue() -> None:
    calls = [asked(0, 1, status=529), asked(4, 1, status=0), asked(8, 2, 1)]
    latency = breakdown((0, 11), first_token=9, calls=calls, tools=[])
    assert (latency.queue_s, latency.model_wait_s, latency.generation_s) == (8, 1, 1)
    assert parts(latency) == 11


def test_what_began_before_or_ends_later_is_cut() -> None:
    calls = [asked(-5, 7, 1), asked(9, 5, 1)]
    latency = breakdown((0, 10), first_token=None, calls=calls, tools=[(-3, 20)])
    assert parts(latency) == latency.total_s == 10


@pytest.mark.parametrize("kind", ["claude-code", "messages"])
async def test_delays_are_found_where_they_were_put(sandbox: Sandbox, kind: str) -> None:
    """Only lower bounds: each is a delay that was injected."""
    command = "python3 -c 'import time; time.sleep(1.2)'"
    tool = "Bash" if kind == "claude-code" else "bash"
    model = ScriptedModel(
        [
            fail(529),
            Reply([call(tool, command=command)], delay_s=0.4),
            Reply([say("one two three four")], delay_s=0.5, pause_s=0.1),
        ]
    )
    options = ClaudeAgentOptions(permission_mode="bypassPermissions", model="claude-haiku-4-5")
    async with model:
        agent: Agent = ClaudeCode(options, model_url=model.url)
        if kind == "messages":
            agent = Messages(model="claude-haiku-4-5", model_url=model.url)
        async with Session(sandbox, agent=agent) as session:
            result = await session.run("Go")
    latency = result.latency
    assert result.text == "one two three four"
    assert latency.model_wait_s >= 0.9
    assert latency.generation_s >= 0.5
    assert latency.tools_s >= 1.2
    assert latency.queue_s > 0
    assert latency.first_token_s is not None
    assert 0.4 <= latency.first_token_s < latency.total_s
    assert parts(latency) == pytest.approx(latency.total_s)
    # The gateway's own clock says the same of each request.
    last = session.meter.calls[-1]
    assert last.first_token_s is not None
    assert last.first_token_s >= 0.5
    assert last.total_s - last.first_token_s >= 0.4
