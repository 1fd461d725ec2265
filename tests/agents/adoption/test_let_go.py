"""A host lets go of its agent, which another one takes up."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from sandboxkit.agents import Finished
from sandboxkit.errors import AgentError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import Reply, ScriptedModel, call, say
from tests.agents.adoption.first_host import key, truth
from tests.agents.adoption.hosts import (
    begin,
    first,
    follow,
    is_call,
    is_text,
    long_turn,
    said_by_cli,
    second,
    written,
)


async def test_the_rest_of_a_turn_that_was_let_go_of(sandbox: Sandbox, again: Sandbox) -> None:
    session_id = str(uuid4())
    async with ScriptedModel(long_turn) as model:
        async with first(sandbox, model, session_id) as session:
            seen, position = await begin(session, is_text)
        async with second(again, model, session_id) as session:
            rest = await follow(session, position)
            with pytest.raises(AgentError) as raised:
                await follow(session)
    assert raised.value.code == "no_turn"
    everything = [key(event) for event in seen + rest]
    assert everything == await said_by_cli(sandbox)
    assert len(everything) == len(set(everything))
    assert isinstance(rest[-1], Finished)
    assert rest[-1].result.text == "end " * 60


@pytest.mark.slow
async def test_without_a_position_the_event_in_hand_comes_again(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())
    async with ScriptedModel(long_turn) as model:
        async with first(sandbox, model, session_id) as session:
            seen, _ = await begin(session, is_call)
        async with second(again, model, session_id) as session:
            rest = await follow(session)
    assert key(rest[0]) == key(seen[-1])
    assert [key(event) for event in seen[:-1] + rest] == await said_by_cli(sandbox)


@pytest.mark.slow
async def test_a_turn_that_ended_without_a_host(sandbox: Sandbox, again: Sandbox) -> None:
    """More is said meanwhile than is kept of an ordinary process's output."""
    session_id, wait = str(uuid4()), "until [ -e /work/go ]; do sleep 0.1; done"
    many = Reply([say(" ".join(f"n{n}" for n in range(2200)))])
    script = [Reply([say("Now."), call("Bash", command=wait)]), many]
    async with ScriptedModel(script) as model:
        async with first(sandbox, model, session_id) as session:
            seen, position = await begin(session, is_call)
        await sandbox.files.write("go", b"")
        async with second(again, model, session_id) as session:  # there is a model again
            while '"result":"n0 n1 ' not in (text := await written(sandbox)) or text[-1] != "\n":
                await asyncio.sleep(0.1)
            await session.let_go()
        async with second(again, model, session_id) as session:
            rest = await follow(session, position)
    assert [key(event) for event in seen + rest] == truth(text)
    assert len(text) > 600 * 1024
    assert isinstance(rest[-1], Finished)
    assert rest[-1].result.text.endswith("n2199")


@pytest.mark.slow
async def test_between_turns(sandbox: Sandbox, again: Sandbox) -> None:
    """What it has cost adds up, and nothing is asked twice."""
    session_id = str(uuid4())
    model = ScriptedModel([say("One."), say("Two."), say("Three.")])
    async with model:
        async with first(sandbox, model, session_id) as session:
            one = await session.run("Go")
            await session.let_go()
        async with second(again, model, session_id) as session:
            assert not session.conversation.turning
            two = await session.run("On")
            three = await session.run("On")
    assert [one.text, two.text, three.text] == ["One.", "Two.", "Three."]
    assert one.usage == two.usage == three.usage
    assert one.cost_usd == pytest.approx(two.cost_usd) == pytest.approx(three.cost_usd)
    assert two.notes == ()
    assert "One." in str(model.requests[1].messages)


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_a_stream_that_is_left_at_its_last_event_is_done_with(
    sandbox: Sandbox, again: Sandbox, how: str
) -> None:
    session_id = str(uuid4())
    async with ScriptedModel([say("One."), say("Two.")]) as model:
        async with first(sandbox, model, session_id) as session:
            stream = session.stream("Go")
            while not isinstance(await anext(stream), Finished):
                pass
            if how == "closed":
                await stream.aclose()
            else:
                del stream
            await session.let_go()
        async with second(again, model, session_id) as session:
            assert (await session.run("On")).text == "Two."


@pytest.mark.slow
async def test_what_a_turn_has_cost_is_of_the_whole_turn(sandbox: Sandbox, again: Sandbox) -> None:
    session_id = str(uuid4())
    tool_call = Reply([say("a"), call("Bash", command="echo")])
    async with ScriptedModel([say("Before."), tool_call, say("b"), say("c")]) as model:
        async with first(sandbox, model, session_id) as session:
            before = await session.run("First")
            _, position = await begin(session, is_call)
        async with second(again, model, session_id) as session:
            end = (await follow(session, position))[-1]
            assert isinstance(end, Finished)
            assert session.usage == end.result.usage
            after = await session.run("And?")
    assert end.result.usage.output_tokens > before.usage.output_tokens
    assert after.usage.input_tokens == before.usage.input_tokens
    assert "another host" in end.result.notes[0]
