"""Who may have the agent, and what may be asked of it in a turn that another host began."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import anyio
import pytest

from sandboxkit.agents import Finished
from sandboxkit.errors import AgentError, SandboxClosedError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, say
from tests.agents.adoption.hosts import (
    STALLED,
    begin,
    first,
    follow,
    is_call,
    is_text,
    long_turn,
    second,
    written,
)


async def test_an_agent_in_use_is_refused(sandbox: Sandbox, again: Sandbox) -> None:
    session_id = str(uuid4())
    async with ScriptedModel([STALLED, say("Still mine.")]) as model:
        async with first(sandbox, model, session_id) as session:
            running = asyncio.ensure_future(session.run("Go"))
            await model.wait_until(lambda: model.requests)
            async with second(again, model, session_id) as other:
                with pytest.raises(AgentError, match=r"in use: it is held by .*\d") as raised:
                    await other.run("Mine")
            assert raised.value.code == "held"
            await session.interrupt()
            assert (await running).stop_reason == "interrupted"
            assert (await session.run("Go on")).text == "Still mine."


@pytest.mark.slow
async def test_a_prompt_during_an_adopted_turn_is_refused_until_it_is_interrupted(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())

    def until_next(request: ModelRequest) -> Any:
        return say("Again.") if "Next" in str(request.messages) else STALLED

    async with ScriptedModel(until_next) as model:
        async with first(sandbox, model, session_id) as session:
            await begin(session, is_text)
            with pytest.raises(SandboxClosedError):
                await session.run("No more")
        async with second(again, model, session_id) as session:
            with pytest.raises(AgentError, match="Follow it with") as raised:
                await session.run("Next")
            assert raised.value.code == "busy"
            await session.interrupt()
            assert session.usage.output_tokens > 0
            with pytest.raises(AgentError) as none:
                await follow(session)
            assert none.value.code == "no_turn"
            assert (await session.run("Next")).text == "Again."


@pytest.mark.slow
async def test_an_adopted_turn_is_interrupted_while_it_is_followed(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())
    async with ScriptedModel([STALLED, STALLED, say("Again.")]) as model:
        async with first(sandbox, model, session_id) as session:
            await begin(session, is_text)
        async with second(again, model, session_id) as session:
            following = asyncio.ensure_future(follow(session))
            await model.wait_until(lambda: len(model.requests) > 1)
            await session.interrupt()
            end = (await following)[-1]
            assert isinstance(end, Finished)
            assert end.result.stop_reason == "interrupted"
            assert (await session.run("Next")).text == "Again."


@pytest.mark.slow
async def test_positions_that_are_none(sandbox: Sandbox, again: Sandbox) -> None:
    session_id = str(uuid4())
    async with ScriptedModel(long_turn) as model:
        async with first(sandbox, model, session_id) as session:
            _, position = await begin(session, is_call)
        assert position is not None
        process_id, _, offset = position.partition("@")
        forged = f"{'0' * 16}-1@{offset}"
        async with second(again, model, session_id) as session:
            conversation = session.conversation
            for after in ("", "x", "@.", "0" * 999, forged, f"{process_id}@5.0"):
                with pytest.raises(AgentError) as raised:
                    await follow(session, after)
                assert raised.value.code == "bad_position"
            assert session.conversation is conversation  # it goes on
            assert isinstance((await follow(session, position))[-1], Finished)


@pytest.mark.slow
async def test_interrupt_where_the_agent_waits_for_a_slow_reader(sandbox: Sandbox) -> None:
    """All that the sandbox keeps is full, and the answer to the interrupt stands behind it."""
    many = Reply([say("word " * 6000)], stall_after_events=5900)
    async with ScriptedModel([many, say("Again.")]) as model:
        async with first(sandbox, model, str(uuid4())) as session:
            stream = session.stream("Go")
            while not is_text(await anext(stream)):
                pass
            while len(await written(sandbox)) < 1024 * 1024:
                await asyncio.sleep(0.1)
            with anyio.fail_after(60):
                await session.interrupt()
                rest = [event async for event in stream]
            end = rest[-1]
            assert isinstance(end, Finished)
            assert end.result.stop_reason == "interrupted"
            assert sum(map(is_text, rest)) > 3000
            assert (await session.run("Next")).text == "Again."
