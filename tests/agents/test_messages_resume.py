"""A conversation of the messages agent goes on: after a fault, and in another session."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandboxkit.agents import ToolCall
from sandboxkit.agents.messages.history import History, Shelf
from sandboxkit.errors import AgentError
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, call, say
from tests.agents.messages_agent import agent

ID = "12345678-1234-4234-8234-123456789abc"


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker") as sandbox:
        yield sandbox


def said(request: ModelRequest) -> str:
    return json.dumps([message.model_dump() for message in request.messages])


async def test_in_another_sandbox_by_a_store(engine: str, tmp_path: Path) -> None:
    store = tmp_path / "new" / "store"
    model = ScriptedModel([call("bash", command="echo hidden > f; cat f"), say("ü"), say("two")])
    async with model:
        async with Session("docker", agent=agent(model, store=store), id=ID) as one:
            first = await one.run("Name an instrument")
            searched = await one.sandbox.sh("grep -rs instrument / --include=*.json*")
            assert searched.text == ""  # nothing of it is in the sandbox
        async with Session("docker", agent=agent(model, store=store), resume=one.id) as two:
            second = await two.run("Which one?")

    assert second.session_id == first.session_id == one.id == ID
    assert [m.role for m in model.requests[2].messages] == ["user", "assistant"] * 2 + ["user"]
    assert "Name an instrument" in said(model.requests[2])
    assert "hidden" in said(model.requests[2])
    assert two.usage == second.usage
    [file] = store.iterdir()
    assert file.name == f"{ID}.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [line["role"] for line in lines] == ["user", "assistant"] * 3
    assert "cache_control" not in str(lines)


async def test_without_a_store_by_the_same_agent(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("A violin."), say("As I said.")])
    async with model:
        mine = agent(model)
        async with Session(sandbox, agent=mine) as one:
            await one.run("Name an instrument")
        async with Session(sandbox, agent=mine, resume=one.id) as two:
            await two.run("Which one?")
    assert "A violin." in said(model.requests[1])


@pytest.mark.parametrize("stored", [True, False])
async def test_unknown_and_taken_ids_are_refused(
    sandbox: Sandbox, tmp_path: Path, stored: bool
) -> None:
    model = ScriptedModel([say("one")])
    async with model:
        mine = agent(model, store=tmp_path if stored else None)
        with pytest.raises(AgentError, match="No conversation found with the id") as unknown:
            await Session(sandbox, agent=mine, resume=ID).__aenter__()
        assert unknown.value.code == "no_conversation"
        async with Session(sandbox, agent=mine, id=ID) as session:
            await session.run("one")
        with pytest.raises(AgentError, match="take it up with resume=") as taken:
            await Session(sandbox, agent=mine, id=ID).__aenter__()
        assert taken.value.code == "conversation_exists"


async def test_after_a_host_that_died_in_a_call(sandbox: Sandbox, tmp_path: Path) -> None:
    """The file ends with a call that has no result, and with half a line."""
    file = tmp_path / f"{ID}.jsonl"
    tool = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "true"}}
    lines = [
        {"role": "user", "content": [{"type": "text", "text": "first"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "gone"}]},
        {"cut": 0},
        {"role": "user", "content": [{"type": "text", "text": "second"}]},
        {"role": "assistant", "content": [tool]},
    ]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    file.write_text(whole + '{"role": "user", "cont')
    model = ScriptedModel([say("Well."), say("Yes.")])
    async with model:
        for _ in range(2):
            async with Session(sandbox, agent=agent(model, store=tmp_path), resume=ID) as session:
                await session.run("Go on")
    first, second = model.requests
    assert "gone" not in said(first)
    assert [(r.tool_use_id, r.is_error) for r in first.tool_results] == [("toolu_1", True)]
    assert len(second.messages) == len(first.messages) + 2


async def test_a_store_that_cannot_be(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / f"{ID}.jsonl"
    file.write_text(
        '{"role": "user", "content": [{"type": "text", "text": "x"}]}\n{"role": "wizard"}\n'
    )
    model = ScriptedModel([say("one")])
    async with model:
        with pytest.raises(AgentError, match="line 2 is not of a conversation") as raised:
            await Session(sandbox, agent=agent(model, store=tmp_path), resume=ID).__aenter__()
        assert raised.value.code == "store"
        with pytest.raises(AgentError, match="cannot be read: Not a directory"):
            await Session(sandbox, agent=agent(model, store=file)).__aenter__()
        late = tmp_path / "late"
        async with Session(sandbox, agent=agent(model, store=late)) as session:
            late.write_text("a file")
            with pytest.raises(AgentError, match="cannot be kept in") as full:
                await session.run("one")
        assert full.value.code == "store"


async def test_what_is_left_is_kept_as_well(sandbox: Sandbox, tmp_path: Path) -> None:
    """A prompt that was left in a call, and one that was refused."""
    model = ScriptedModel(
        [
            call("bash", command="tail -f /dev/null"),
            Reply([say("No.")], stop_reason="refusal"),
            say("Well."),
        ]
    )
    async with model:
        async with Session(sandbox, agent=agent(model, store=tmp_path)) as one:
            async for event in one.stream("Wait"):
                if isinstance(event, ToolCall):
                    break
            await one.run("Something bad")
        async with Session(sandbox, agent=agent(model, store=tmp_path), resume=one.id) as two:
            assert (await two.run("Go on")).text == "Well."
    assert "Something bad" not in said(model.requests[2])
    assert "[The user has interrupted this.]" in said(model.requests[2])


async def test_a_conversation_that_was_given_up_changes_nothing_any_more(tmp_path: Path) -> None:
    for shelf in (Shelf(tmp_path), Shelf(None)):
        old = await shelf.take(ID, resume=False)
        old.add("user", [{"type": "text", "text": "one"}])
        await old.save()
        old.close()
        new = await shelf.take(ID, resume=True)
        old.add("user", [{"type": "text", "text": "late"}])
        await old.save()
        assert new.messages == (await shelf.take(ID, resume=True)).messages
        assert len(new.messages) == 1


def test_a_history_is_a_copy() -> None:
    given = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    history = History(given)
    history.cut(0)
    assert len(given) == 1
