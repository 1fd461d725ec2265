"""A conversation goes on: in the same sandbox, and in another one by way of a store."""

from __future__ import annotations

import json
from typing import Any

import pytest
from claude_agent_sdk import (
    ClaudeAgentOptions,
    InMemorySessionStore,
    SessionKey,
    SessionStore,
    SessionStoreEntry,
)

from sandboxkit.agents.claude_code import ClaudeCode, claude_code_artifact
from sandboxkit.errors import AgentError
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import ModelRequest, ScriptedModel, say
from tests.agents.places import Inside, ask, result_of

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def said(request: ModelRequest) -> str:
    """All that the user and the model have said so far."""
    return json.dumps([message.model_dump() for message in request.messages])


def agent(model: ScriptedModel, store: SessionStore | None = None, **fields: Any) -> ClaudeCode:
    options = ClaudeAgentOptions(permission_mode="bypassPermissions", session_store=store, **fields)
    return ClaudeCode(options, model_url=model.url)


async def test_in_the_same_sandbox_by_the_sdk(inside: Inside) -> None:
    model = ScriptedModel([say("A violin."), say("As I said.")])
    async with inside.client(model) as client:
        first = result_of(await ask(client, "Name an instrument"))
    model = ScriptedModel([say("As I said.")])
    async with inside.client(model, resume=first.session_id) as client:
        second = result_of(await ask(client, "Which one?"))

    assert second.session_id == first.session_id
    assert "A violin." in said(model.requests[0])

    model = ScriptedModel([say("Still that.")])
    async with inside.client(model, continue_conversation=True) as client:
        third = result_of(await ask(client, "And now?"))
    assert third.session_id == first.session_id
    assert "As I said." in said(model.requests[0])


async def test_two_agents_have_a_directory_each(inside: Inside) -> None:
    model = ScriptedModel([say("one"), say("two")])
    async with inside.client(model) as client:
        await ask(client, "one")
    async with inside.client(ScriptedModel([say("two")])) as client:
        await ask(client, "two")

    home = f"{inside.sandbox.home}/.sandboxkit/claude-code"
    assert len(await inside.sandbox.files.list(home)) == 2


@pytest.mark.parametrize("flush", ["batched", "eager"])
async def test_in_another_sandbox_by_a_store(engine: str, flush: Any) -> None:
    store = InMemorySessionStore()
    model = ScriptedModel([say("A violin."), say("As I said.")])
    async with model:
        async with Session("docker", agent=agent(model, store, session_store_flush=flush)) as one:
            await one.run("Name an instrument")
        async with Session("docker", agent=agent(model, store), resume=one.id) as two:
            result = await two.run("Which one?")

    assert result.session_id == one.id == two.id
    assert "A violin." in said(model.requests[1])
    # Both parts are in the store, under the key of the working directory in the sandbox.
    entries = await store.load({"project_key": "-work", "session_id": one.id})
    assert entries is not None
    assert "A violin." in json.dumps(entries)
    assert "As I said." in json.dumps(entries)


async def test_the_last_conversation_of_a_store(inside: Inside) -> None:
    store = InMemorySessionStore()
    async with inside.client(ScriptedModel([say("A violin.")]), session_store=store) as client:
        first = result_of(await ask(client, "Name an instrument"))
    async with Sandbox.create("docker", artifacts=[await claude_code_artifact()]) as other:
        model = ScriptedModel([say("As I said.")])
        async with Inside(other).client(
            model, session_store=store, continue_conversation=True
        ) as client:
            second = result_of(await ask(client, "Which one?"))

    assert second.session_id == first.session_id
    assert "A violin." in said(model.requests[0])


async def test_an_unknown_conversation_is_refused_and_leaves_nothing(engine: str) -> None:
    async with ScriptedModel([]) as model:
        session = Session("docker", agent=agent(model, InMemorySessionStore()), resume=UNKNOWN)
        with pytest.raises(AgentError, match="No conversation found") as raised:
            async with session:
                raise AssertionError("it was entered")
    assert raised.value.code == "no_conversation"


class Failing(InMemorySessionStore):
    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        raise OSError("the store is down")


async def test_a_store_that_fails_is_named(sandbox: Sandbox) -> None:
    async with ScriptedModel([]) as model:
        session = Session(sandbox, agent=agent(model, Failing()), resume=UNKNOWN)
        with pytest.raises(RuntimeError, match="failed on resume: the store is down"):
            async with session:
                raise AssertionError("it was entered")
