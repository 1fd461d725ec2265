"""The conversation of a named session, as one host after the other has it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from sandboxkit.errors import AgentError
from sandboxkit.session import Session
from sandboxkit.spec import (
    SESSION_LABEL,
)
from tests.session.memory import NAME, living, memory
from tests.session.quiet import Quiet


async def test_the_conversation_goes_on_under_another_id() -> None:
    provider, known = memory(), set[str]()
    first, second = Quiet(known), Quiet(known)
    first.moves_to = second.moves_to = str(uuid4())
    async with Session(provider, agent=first, name=NAME) as one:
        result = await one.run("Begin")
        assert result.session_id == first.moves_to
        assert one.id == one.sandbox.info.labels[SESSION_LABEL]
    async with Session(provider, agent=second, name=NAME) as two:
        assert two.id == one.id
        assert second.starts == [(first.moves_to, True)]
        await two.destroy()


@pytest.mark.parametrize("moved", [False, True])
async def test_an_agent_that_runs_is_taken_up(moved: bool) -> None:
    """By the id that it was begun with, or that it goes on under."""
    provider, agent = memory(), Quiet()
    agent.moves_to = str(uuid4()) if moved else None
    async with Session(provider, agent=agent, name=NAME) as one:
        await one.run("Begin")
    for known_as in {one.id, agent.moves_to or one.id}:
        agent.runs = known_as
        async with Session(provider, agent=agent, name=NAME) as two:
            await two.run("Go on")
    assert agent.starts == [(one.id, False)]
    await Session(provider, name=NAME).destroy()


async def test_one_that_was_asked_nothing_begins_anew() -> None:
    provider, agent = memory(), Quiet()
    async with Session(provider, agent=agent, name=NAME) as one:
        pass
    async with Session(provider, agent=agent, name=NAME) as two:
        assert agent.starts == [(one.id, False), (one.id, True), (one.id, False)]
        await two.destroy()


async def test_a_conversation_that_is_lost_is_an_error() -> None:
    provider = memory()
    async with Session(provider, agent=Quiet(), name=NAME) as one:
        await one.run("Begin")
    with pytest.raises(AgentError, match="No conversation"):
        await Session(provider, agent=Quiet(), name=NAME).__aenter__()
    assert len(await living(provider)) == 1
    await Session(provider, name=NAME).destroy()


async def test_while_another_host_has_the_agent() -> None:
    provider, agent = memory(), Quiet()
    async with Session(provider, agent=agent, name=NAME) as one:
        await one.run("Begin")
        agent.held = True
        async with Session(provider, agent=agent, name=NAME) as two:
            assert two.states.now == "ready"
            await two.sandbox.files.write("from", "the second")
            for _ in range(2):
                with pytest.raises(AgentError) as refused:
                    await two.run("And you?")
                assert refused.value.code == "held"
            agent.held = False
            assert (await two.run("And now?")).text == one.id
            await two.destroy()
