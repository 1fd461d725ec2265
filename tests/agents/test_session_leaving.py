"""A prompt that is left, interrupted, cancelled or cut off; and the next one after it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from sandboxkit.agents import Event, Finished, TextDelta, ToolCall
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.claude_code.conversation import ClaudeCodeConversation
from sandboxkit.errors import AgentError, SandboxClosedError, SandboxError
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import Reply, ScriptedModel, call, say
from tests.agents.test_transport_errors import KILL_CLI

STALLED = Reply([say("one two three")], stall_after_events=4)


def is_text(event: Event) -> bool:
    return isinstance(event, TextDelta)


def fail_at_text(event: Event) -> bool:
    return is_text(event) and 1 / 0 > 0


def is_tool(event: Event) -> bool:
    return isinstance(event, ToolCall)


def session_with(sandbox: Sandbox, model: ScriptedModel) -> Session:
    return Session(sandbox, agent=ClaudeCode(model_url=model.url))


async def until(session: Session, prompt: str, condition: Callable[[Event], bool]) -> None:
    """Follow a prompt until something happens, and leave it by `break`."""
    async for event in session.stream(prompt):
        assert not isinstance(event, Finished)
        if condition(event):
            break


async def test_a_stream_left_by_break_is_interrupted(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED, say("Again.")])
    async with model, session_with(sandbox, model) as session:
        await until(session, "Count", is_text)
        await model.wait_until(lambda: model.hang_ups)  # without another word from us
        again = await session.run("Go on")

    assert again.text == "Again."
    assert len(again.messages) == 1
    assert [hang_up.events for hang_up in model.hang_ups] == [4]
    assert session.usage.output_tokens > again.usage.output_tokens  # what was left counts too


async def test_a_stream_left_in_a_tool_call_ends_the_tool(sandbox: Sandbox) -> None:
    model = ScriptedModel([call("Bash", command="tail -f /dev/null"), say("Again.")])
    async with model, session_with(sandbox, model) as session:
        await until(session, "Wait", is_tool)
        assert (await session.run("Go on")).text == "Again."
        running = (await sandbox.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).text
    assert "tail -f /dev/null" not in running


async def test_a_stream_is_left_by_its_block_and_by_an_exception(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED, STALLED, say("Again.")])
    async with model, session_with(sandbox, model) as session:
        async with session.stream("Count") as events:
            async for event in events:
                if is_text(event):
                    break
            # Leaving the block has waited for the end of the turn.
        await model.wait_until(lambda: len(model.hang_ups) == 1)
        with pytest.raises(ZeroDivisionError):
            await until(session, "Count", fail_at_text)
        assert (await session.run("Go on")).text == "Again."


async def test_a_cancelled_run_leaves_the_session_usable(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED, say("Again.")])
    async with model, session_with(sandbox, model) as session:
        task = asyncio.ensure_future(session.run("Count"))
        await model.wait_until(lambda: model.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await model.wait_until(lambda: model.hang_ups)
        assert (await session.run("Go on")).text == "Again."


async def test_cancelled_at_any_moment(sandbox: Sandbox) -> None:
    """Before the prompt is sent, while the CLI takes it up, while it works.

    The CLI forgets an interrupt that comes just before a turn begins; a turn that nobody
    stops would stall for ever here.
    """

    async with ScriptedModel(lambda _: STALLED) as model, session_with(sandbox, model) as session:
        conversation = session.conversation
        for delay_s in (0.0, *(step / 2000 for step in range(24)), 0.02, 0.05):
            task = asyncio.ensure_future(session.run("Count"))
            await asyncio.sleep(delay_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert session.conversation is conversation  # it never had to be started anew


async def test_interrupt_ends_the_run_with_a_result(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED, say("Again.")])
    async with model, session_with(sandbox, model) as session:
        await session.interrupt()  # nothing is running
        task = asyncio.ensure_future(session.run("Count"))
        await model.wait_until(lambda: model.requests)
        await session.interrupt()
        result = await task
        assert (result.stop_reason, result.is_error) == ("interrupted", True)
        await model.wait_until(lambda: model.hang_ups)
        assert (await session.run("Go on")).text == "Again."


async def test_interrupt_from_within_a_slow_reader(sandbox: Sandbox) -> None:
    """More messages wait than the SDK holds: the answer to the interrupt stands behind them."""
    model = ScriptedModel([Reply([say("word " * 2000)], stall_after_events=1500), say("Again.")])
    async with model, session_with(sandbox, model) as session:
        assert isinstance(session.conversation, ClaudeCodeConversation)
        buffered: Any = vars(session.conversation.client)["_query"].__dict__["_message_receive"]
        async for event in session.stream("Count"):
            if is_text(event):
                while not buffered.statistics().tasks_waiting_send:
                    await asyncio.sleep(0.01)
                await session.interrupt()
                break
        assert (await session.run("Go on")).text == "Again."


async def test_one_prompt_at_a_time(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED, say("Again.")])
    async with model, session_with(sandbox, model) as session:
        task = asyncio.ensure_future(session.run("Count"))
        await model.wait_until(lambda: model.requests)
        with pytest.raises(AgentError, match="running another prompt") as raised:
            await session.run("And this")
        assert raised.value.code == "busy"
        await session.interrupt()
        assert (await task).stop_reason == "interrupted"
        assert (await session.run("Go on")).text == "Again."


async def test_an_agent_that_is_killed_fails_its_prompt_and_comes_back(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("A violin."), STALLED, say("Here I am.")])
    async with model, session_with(sandbox, model) as session:
        await session.run("Name an instrument")
        task = asyncio.ensure_future(session.run("Count"))
        await model.wait_until(lambda: len(model.requests) == 2)
        await sandbox.sh(KILL_CLI)
        with pytest.raises(AgentError, match="exit code -9") as raised:
            await task
        assert raised.value.code == "ended"
        before = session.id
        result = await session.run("Are you there?")

    assert (result.text, result.session_id) == ("Here I am.", before)
    assert "A violin." in str(model.requests[2].messages)


async def test_an_agent_that_is_killed_in_its_first_prompt_comes_back(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED, say("Here I am.")])
    async with model, session_with(sandbox, model) as session:
        task = asyncio.ensure_future(session.run("Count"))
        await model.wait_until(lambda: model.requests)
        await sandbox.sh(KILL_CLI)
        with pytest.raises(AgentError):
            await task
        assert (await session.run("Are you there?")).text == "Here I am."


async def test_closing_a_session_fails_the_running_prompt(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED])
    async with model:
        session = session_with(sandbox, model)
        async with session:
            task = asyncio.ensure_future(session.run("Count"))
            await model.wait_until(lambda: model.requests)
        with pytest.raises(SandboxClosedError):
            await task
        with pytest.raises(SandboxClosedError):
            await session.run("More")


async def test_a_sandbox_that_is_lost_fails_the_prompt(engine: str) -> None:
    model = ScriptedModel([STALLED])
    async with model, Session("docker", agent=ClaudeCode(model_url=model.url)) as session:
        task = asyncio.ensure_future(session.run("Count"))
        await model.wait_until(lambda: model.requests)
        await session.sandbox.destroy()
        with pytest.raises(SandboxError) as raised:
            await task
        assert not isinstance(raised.value, AgentError)


async def test_a_stream_that_is_never_begun_is_nothing(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("Hello.")])
    async with model, session_with(sandbox, model) as session:
        stream = session.stream("Never")
        del stream
        gc.collect()
        assert (await session.run("Hello")).text == "Hello."
    assert len(model.requests) == 1
