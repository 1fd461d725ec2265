"""The transcript of an agent that one host after the other brings to a store."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from claude_agent_sdk import InMemorySessionStore, SessionKey, SessionStoreEntry

from sandboxkit.agents import Finished, Message, TextDelta
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import Reply, ScriptedModel, say
from tests.agents.adoption.hosts import first, second, written


class Refusing(InMemorySessionStore):
    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        raise OSError("away")


def words(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


async def test_what_a_store_did_not_take_comes_to_the_next_host(
    sandbox: Sandbox, again: Sandbox
) -> None:
    """And what the application has handled does not."""
    session_id, store = str(uuid4()), InMemorySessionStore()
    one = Reply([say("One.")], pause_s=0.2)  # the transcript comes before the answer
    async with ScriptedModel([one, say("Two.")]) as model:
        async with first(sandbox, model, session_id, session_store=Refusing()) as session:
            assert (await session.run("Begin")).text == "One."
            await session.let_go()
        async with second(again, model, session_id, session_store=store) as session:
            events = [event async for event in session.stream("Go on")]
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Two."]
    assert isinstance(events[-1], Finished)
    assert events[-1].result.messages == tuple(e for e in events if isinstance(e, Message))
    key: SessionKey = {"project_key": "-work", "session_id": session_id}
    lines: list[Any] = await store.load(key) or []
    said = [line["message"] for line in lines if line["type"] in {"user", "assistant"}]
    assert [words(message["content"]) for message in said] == ["Begin", "One.", "Go on", "Two."]
    ids = [line["uuid"] for line in lines if "uuid" in line]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("flush", "text"),
    [
        ("eager", "word " * 6000),
        ("eager", "x" * 600_000),
        pytest.param("batched", "word " * 6000, marks=pytest.mark.slow),
    ],
    ids=["many lines", "long lines", "at the end"],
)
async def test_a_store_that_fails_does_not_stop_the_agent(
    sandbox: Sandbox, flush: str, text: str
) -> None:
    """Although more is said than the sandbox keeps for the next host."""
    options: dict[str, Any] = {"session_store": Refusing(), "session_store_flush": flush}
    async with ScriptedModel([say(text)]) as model:
        async with first(sandbox, model, str(uuid4()), **options) as session:
            assert (await session.run("Go")).text == text
            assert len(await written(sandbox)) > 1024 * 1024


async def test_an_answer_in_long_lines(sandbox: Sandbox) -> None:
    """The line for the store and the next one are more than the sandbox keeps."""
    store, text = InMemorySessionStore(), "x" * 600_000
    async with ScriptedModel([say(text)]) as model:
        async with first(sandbox, model, str(uuid4()), session_store=store) as session:
            assert (await session.run("Go")).text == text
