"""A prompt of the messages agent that is interrupted, left or cut off; and the next one.

The scripted model refuses what the API would: a call without its result, an empty text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from sandboxkit.agents import Event, Finished, TextDelta, ToolCall, ToolResult
from sandboxkit.agents.messages import Tool
from sandboxkit.errors import AgentError, SandboxClosedError, SandboxError
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import Reply, ScriptedModel, call, say, think
from tests.agents.messages_agent import STALLED, agent, only


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker") as sandbox:
        yield sandbox


async def until(session: Session, prompt: str, kind: type[Event]) -> None:
    """Follow a prompt until something happens, and leave it by `break`."""
    async for event in session.stream(prompt):
        assert not isinstance(event, Finished)
        if isinstance(event, kind):
            break


async def test_interrupt_in_mid_stream(sandbox: Sandbox) -> None:
    stalled = Reply([think("a"), say("one two three")], stall_after_events=7)
    model = ScriptedModel([stalled, say("Again.")])
    async with model, Session(sandbox, agent=agent(model)) as session:
        await session.interrupt()  # nothing is running
        events: list[Event] = []
        async for event in session.stream("Count"):
            events.append(event)
            if isinstance(event, TextDelta):
                await session.interrupt()
        result = only(events, Finished)[0].result
        await model.wait_until(lambda: model.hang_ups)
        assert (await session.run("Go on")).text == "Again."

    assert (result.stop_reason, result.is_error) == ("interrupted", True)
    assert result.usage.input_tokens == 100  # what was left counts too
    assert result.metered is not None
    assert result.metered.usage == result.usage
    # What had been said stays, and the model knows what became of it.
    assert [(m.role, [b.text for b in m.content]) for m in model.requests[1].messages] == [
        ("user", ["Count"]),
        ("assistant", ["", "one"]),
        ("user", ["[The user has interrupted this.]"]),
        ("user", ["Go on"]),
    ]


async def test_interrupt_in_the_tools(sandbox: Sandbox) -> None:
    async def patient(arguments: Mapping[str, Any]) -> str:
        await asyncio.Event().wait()
        return ""

    tools = [Tool("patient", "", {"type": "object"}, patient)]
    calls = [
        call("bash", command="echo first"),
        call("bash", command="tail -f /dev/null"),
        call("bash", command="echo third"),
        call("patient"),
    ]
    model = ScriptedModel([calls, say("Again.")])
    async with model, Session(sandbox, agent=agent(model, tools=tools)) as session:
        events: list[Event] = []
        async for event in session.stream("Wait"):
            events.append(event)
            if isinstance(event, ToolResult) and not event.is_error:
                await session.interrupt()
        running = (await sandbox.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).text
        assert "tail -f /dev/null" not in running
        assert (await session.run("Go on")).text == "Again."

    assert only(events, Finished)[0].result.stop_reason == "interrupted"
    assert {e.id for e in only(events, ToolResult)} == {e.id for e in only(events, ToolCall)}
    results = [(r.text, r.is_error) for r in model.requests[1].tool_results]
    stopped = ("The agent was stopped before this had a result.", True)
    assert results == [("first\n", False), *[stopped] * 3]


@pytest.mark.parametrize("kind", [TextDelta, ToolCall])
async def test_a_stream_left_by_break(sandbox: Sandbox, kind: type[Event]) -> None:
    waiting = Reply([say("I wait."), call("bash", command="tail -f /dev/null")])
    model = ScriptedModel([STALLED if kind is TextDelta else waiting, say("Again.")])
    async with model, Session(sandbox, agent=agent(model)) as session:
        await until(session, "Count", kind)
        again = await session.run("Go on")
    assert again.text == "Again."
    assert len(again.messages) == 1
    assert session.usage.output_tokens > again.usage.output_tokens  # what was left counts too
    assert session.meter.total.requests == 2


async def test_cancelled_at_any_moment(sandbox: Sandbox) -> None:
    working = Reply([say("x"), call("bash", command="sleep 0.01")])
    async with (
        ScriptedModel(lambda _: working) as model,
        Session(sandbox, agent=agent(model)) as session,
    ):
        conversation = session.conversation
        for delay_s in (0.0, *(step / 1000 for step in range(30)), 0.1, 0.2):
            task = asyncio.ensure_future(session.run("Count"))
            await asyncio.sleep(delay_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert session.conversation is conversation  # it never had to be started anew
        task = asyncio.ensure_future(session.run("Once more"))
        await model.wait_until(lambda: "Once more" in str(model.requests[-1].messages))
        await session.interrupt()
        assert (await task).stop_reason == "interrupted"
    failed = [made for made in session.meter.calls if made.status >= 400]
    assert failed == []  # no request was one that the API refuses


async def test_one_prompt_at_a_time(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED, say("Again.")])
    async with model, Session(sandbox, agent=agent(model)) as session:
        task = asyncio.ensure_future(session.run("Count"))
        await model.wait_until(lambda: model.requests)
        with pytest.raises(AgentError, match="running another prompt"):
            await session.run("And this")
        await session.interrupt()
        assert (await task).stop_reason == "interrupted"


async def test_closing_a_session_fails_the_running_prompt(sandbox: Sandbox) -> None:
    model = ScriptedModel([call("bash", command="touch begun; tail -f /dev/null")])
    async with model:
        session = Session(sandbox, agent=agent(model))
        async with session:
            task = asyncio.ensure_future(session.run("Count"))
            while not await sandbox.files.exists("begun"):
                await asyncio.sleep(0.01)
        with pytest.raises(SandboxClosedError):
            await task
        with pytest.raises(SandboxClosedError):
            await session.run("More")
    running = (await sandbox.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).text
    assert "tail -f /dev/null" not in running


async def test_a_sandbox_that_is_lost_fails_the_prompt(engine: str) -> None:
    command = "touch begun; tail -f /dev/null"
    model = ScriptedModel([call("bash", command=command), say("Here.")])
    async with model, Session("docker", agent=agent(model)) as session:
        task = asyncio.ensure_future(session.run("Wait"))
        while not await session.sandbox.files.exists("begun"):
            await asyncio.sleep(0.01)
        await session.sandbox.destroy()
        with pytest.raises(SandboxError) as raised:
            await task
        assert not isinstance(raised.value, AgentError)


async def test_a_tool_that_will_not_stop_is_not_waited_for(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt is given up, and the conversation goes on without it."""
    monkeypatch.setattr("sandboxkit.agents.stream.SETTLE_S", 0.2)
    monkeypatch.setattr("sandboxkit.agents.messages.conversation._STOP_S", 0.2)
    release = asyncio.Event()

    async def stubborn(arguments: Mapping[str, Any]) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    tools = [Tool("stubborn", "", {"type": "object"}, stubborn)]
    model = ScriptedModel([call("stubborn"), say("Again.")])
    async with model, Session(sandbox, agent=agent(model, tools=tools)) as session:
        await until(session, "Wait", ToolCall)
        asyncio.get_running_loop().call_later(1, release.set)
        assert (await session.run("Go on")).text == "Again."
