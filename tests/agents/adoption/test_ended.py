"""Agents that have ended, and those that end with their host."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from sandboxkit.agents import Event
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.errors import AgentError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import MemoryProvider, Reply, ScriptedModel, call, say
from tests.agents.adoption.first_host import Attached, key
from tests.agents.adoption.hosts import begin, first, follow, is_call, is_text, said_by_cli, second
from tests.agents.messages_agent import agent as messages_agent
from tests.agents.test_transport_errors import KILL_CLI


@pytest.mark.slow
async def test_an_agent_that_has_ended_meanwhile_is_started_anew(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())
    model = ScriptedModel([say("A violin."), say("As I said.")])
    async with model:
        async with first(sandbox, model, session_id) as session:
            await session.run("Name an instrument")
            await session.let_go()
        await sandbox.sh(KILL_CLI)
        async with second(again, model, session_id) as session:
            result = await session.run("Which one?")
    assert (result.text, result.session_id) == ("As I said.", session_id)
    assert "A violin." in str(model.requests[1].messages)


@pytest.mark.slow
async def test_an_agent_that_died_in_its_turn_says_what_it_had_said(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())
    tool_call = Reply([say("a b c"), call("Bash", command="sleep 1; sleep 60.5")])
    async with ScriptedModel([tool_call, tool_call, say("Here I am.")]) as model:
        async with first(sandbox, model, session_id) as session:
            seen, position = await begin(session, is_text)
        async with second(again, model, session_id) as session:  # the model is there again
            while (
                "sleep 60.5"
                not in (await sandbox.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).text
            ):
                await asyncio.sleep(0.1)
            await session.let_go()
        await sandbox.sh(KILL_CLI)
        async with second(again, model, session_id) as session:
            rest: list[Event] = []
            with pytest.raises(AgentError) as raised:  # noqa: PT012 - what came before it counts
                async for event in session.follow(position):
                    rest.append(event)  # noqa: PERF401
            assert raised.value.code == "ended"
            assert (await session.run("Are you there?")).text == "Here I am."
    assert [key(event) for event in seen + rest] == (await said_by_cli(sandbox))[: len(seen + rest)]
    assert any(is_call(event) for event in rest)


@pytest.mark.slow
async def test_leaving_the_session_ends_the_agent(sandbox: Sandbox) -> None:
    session_id = str(uuid4())
    async with ScriptedModel([say("Hello.")]) as model:
        async with first(sandbox, model, session_id) as session:
            await session.run("Go")
    assert not [one for one in await sandbox.processes() if one.running]


async def test_the_messages_agent_leaves_no_turn(tmp_path: Path) -> None:
    """Its loop is on the host, and over with it."""
    async with ScriptedModel([say("Hello.")]) as model, Sandbox.create(MemoryProvider()) as sandbox:
        loop = messages_agent(model, store=str(tmp_path)).durable()
        async with Attached(sandbox, agent=loop) as session:
            with pytest.raises(AgentError) as raised:
                await follow(session)
            assert raised.value.code == "no_turn"
            assert (await session.run("Go")).text == "Hello."


async def test_an_agent_that_is_not_durable_has_no_positions(sandbox: Sandbox) -> None:
    async with ScriptedModel([say("Hello.")]) as model:
        async with Attached(sandbox, agent=ClaudeCode(model_url=model.url)) as session:
            stream = session.stream("Go")
            assert {stream.position async for _ in stream} == {None}
