"""What is counted: per request, turn, session and model; beside what the CLI itself says."""

from __future__ import annotations

import asyncio

import pytest
from claude_agent_sdk import ClaudeAgentOptions

from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.claude_code.comparison import disagreements
from sandboxkit.gateway.model.meter import ModelCall, Price, Sum
from sandboxkit.machine import MachinePrice, known_prices
from sandboxkit.providers.info import Effective, SandboxInfo
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import Reply, ScriptedModel, call, say
from sandboxkit.usage import Usage

HAIKU = "claude-haiku-4-5"


def claude(model: ScriptedModel, name: str = HAIKU) -> ClaudeCode:
    options = ClaudeAgentOptions(permission_mode="bypassPermissions", model=name)
    return ClaudeCode(options, model_url=model.url)


async def test_every_sum_is_that_of_its_calls(sandbox: Sandbox) -> None:
    written = Usage(100, 10, cache_creation_tokens=1000, cache_creation_1h_tokens=400)
    model = ScriptedModel(
        [
            Reply([call("Bash", command="true")], input_tokens=1000, output_tokens=100),
            Reply(
                [say("One.")],
                input_tokens=100,
                output_tokens=10,
                cache_creation_tokens=1000,
                cache_creation_1h_tokens=400,
            ),
            Reply([say("Two.")], input_tokens=10, output_tokens=1, cache_read_tokens=1000),
        ]
    )
    live: list[ModelCall] = []
    async with model, Session(sandbox, agent=claude(model)) as session:

        async def follow() -> None:
            live.extend([made async for made in session.meter.follow()])

        following = asyncio.ensure_future(follow())
        await asyncio.sleep(0)
        one, two = await session.run("One"), await session.run("Two")
    async with asyncio.timeout(20):
        await following  # the session's end is its end
        assert [made async for made in session.meter.follow()] == []
    calls = list(session.meter.calls)
    assert live == calls
    assert [made.usage for made in calls] == [
        Usage(1000, 100),
        written,
        Usage(10, 1, cache_read_tokens=1000),
    ]
    costs = [(1000 + 500) / 1e6, (100 + 50 + 750 + 800) / 1e6, (10 + 5 + 100) / 1e6]
    assert [made.cost_usd for made in calls] == pytest.approx(costs)
    assert one.metered is not None
    assert two.metered is not None
    assert one.metered.usage == Usage(1000, 100) + written
    assert one.usage == Usage(1100, 110, cache_creation_tokens=1000)  # the CLI's own
    assert one.metered.cost_usd == pytest.approx(sum(costs[:2])) == one.cost_usd
    assert two.metered.requests == 1
    assert two.metered.cost_usd == pytest.approx(costs[2])
    assert session.usage == one.usage + two.usage
    assert session.meter.total.usage == one.metered.usage + two.metered.usage
    assert session.meter.by_model == {HAIKU: session.meter.total}
    assert (one.notes, two.notes) == ((), ())
    assert session.machine.seconds > 0
    assert session.machine.cost_usd is None  # an engine of one's own has no price


async def test_an_answer_that_breaks_off_is_estimated(sandbox: Sandbox) -> None:
    model = ScriptedModel(
        [
            Reply([say("long-winded " * 500)], input_tokens=5000, drop_after_events=400),
            Reply([say("Once more.")], input_tokens=5000, output_tokens=10),
        ]
    )
    async with model, Session(sandbox, agent=claude(model)) as session:
        result = await session.run("Hello")
    assert result.text == "Once more."
    assert result.metered is not None
    assert result.metered.usage.input_tokens == result.usage.input_tokens == 10_000
    assert result.metered.usage.output_tokens > 1000
    [broken, whole] = session.meter.calls
    assert (broken.complete, whole.complete) == (False, True)


OWN = """
import json, os, urllib.request
headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
message = {"role": "user", "content": "For me"}
body = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [message]}
url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
"""


async def test_a_disagreement_with_the_cli_is_said(sandbox: Sandbox) -> None:
    """A program in the sandbox asks the model past the CLI; not past the gateway."""
    model = ScriptedModel(
        [
            Reply([call("Bash", command="python3 own.py")], input_tokens=100, output_tokens=10),
            Reply([say("For you.")], input_tokens=5000, output_tokens=500),
            Reply([say("Done.")], input_tokens=100, output_tokens=10),
        ]
    )
    await sandbox.files.write("own.py", OWN)
    async with model, Session(sandbox, agent=claude(model)) as session:
        result = await session.run("Hello")
    assert result.usage == Usage(200, 20)
    assert result.metered is not None
    assert result.metered.usage == Usage(5200, 520)
    tokens, dollars = result.notes
    assert "200 read" in tokens
    assert "5200 read" in tokens
    assert "USD" in dollars


async def test_prices_of_the_users_own_are_said_to_differ(sandbox: Sandbox) -> None:
    model = ScriptedModel([Reply([say("Hello.")], input_tokens=1000, output_tokens=100)])
    prices = {"*haiku*": Price(10, 20)}
    price = MachinePrice(cpu_usd=1.0, memory_gib_usd=0.5)
    async with (
        model,
        Session(sandbox, agent=claude(model), prices=prices, machine_price=price) as session,
    ):
        result = await session.run("Hello")
    assert result.metered is not None
    assert result.metered.cost_usd == pytest.approx((10_000 + 2000) / 1e6)
    [note] = result.notes
    assert "0.0120 USD" in note
    machine = session.machine
    assert machine.cost_usd == pytest.approx(machine.seconds * 1.5)  # 1 CPU, 1 GiB
    assert session.machine == machine  # it has ended


async def test_an_unknown_model_is_unknown(sandbox: Sandbox) -> None:
    model = ScriptedModel([Reply([say("Hello.")], input_tokens=1000, output_tokens=100)])
    async with model, Session(sandbox, agent=claude(model, "a-model-of-ours")) as session:
        result = await session.run("Hello")
    [made] = session.meter.calls
    assert (made.cost_usd, made.usage) == (None, Usage(1000, 100))
    assert session.meter.by_model["a-model-of-ours"].unpriced == 1
    assert result.metered is not None
    assert (result.metered.unpriced, result.metered.cost_usd) == (1, None)
    assert result.notes == ()


def test_small_differences_are_none() -> None:
    metered = Sum(usage=Usage(1, 1), known_usd=1.0)
    assert disagreements(Usage(1, 1), 1.005, metered) == ()
    assert disagreements(Usage(11, 1), None, metered) == ()
    assert len(disagreements(Usage(1, 20), 1.02, metered)) == 2
    assert disagreements(Usage(1, 1), None, metered) == ()


@pytest.mark.parametrize(
    ("provider", "hour"), [("e2b", 0.0666), ("daytona", 0.0666), ("modal", 0.0950)]
)
def test_the_hour_of_a_machine(provider: str, hour: float) -> None:
    info = SandboxInfo("x", provider, effective=Effective(cpu=1, memory_gib=1, disk_gib=5))
    assert known_prices()[provider].of(info, 3600) == pytest.approx(hour, abs=1e-4)
    unknown = SandboxInfo("x", provider)
    assert known_prices()[provider].of(unknown, 3600) is None
