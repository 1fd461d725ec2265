"""Sessions that sleep: what counts as activity, how they fall asleep, and how they wake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from sandboxkit.agents.base import Agent
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.session import Session
from sandboxkit.store import Store
from sandboxkit.testing import Reply, ScriptedModel, call, say
from tests.agents.messages_agent import agent as messages

pytestmark = pytest.mark.slow

LONG_S = 120.0
Make = Callable[[ScriptedModel], Agent]


def claude(model: ScriptedModel) -> Agent:
    return ClaudeCode(model_url=model.url)


def spoken(model: ScriptedModel) -> str:
    return json.dumps([message.model_dump() for message in model.requests[-1].messages])


def passed(session: Session) -> list[str]:
    return [change.after for change in session.states.changes]


BOTH = pytest.mark.parametrize("make", [claude, messages])
WORK = "echo one > file; echo done"


@BOTH
async def test_an_agent_that_waits_is_idle(engine: str, make: Make) -> None:
    model = ScriptedModel([call(name_of(make), command=WORK), say("Done.")])
    async with (
        model,
        Session("docker", agent=make(model), idle_timeout_s=1.0) as session,
    ):
        await session.run("Work")
        with anyio.fail_after(LONG_S):
            while session.sandbox.failure is None:
                await anyio.sleep(0.05)
        assert session.sandbox.failure.code == "idle"


def name_of(make: Make) -> str:
    return "Bash" if make is claude else "bash"


@BOTH
async def test_a_model_that_thinks_long_is_activity(engine: str, make: Make) -> None:
    model = ScriptedModel([Reply([say("At last.")], delay_s=3.0)])
    async with (
        model,
        Session("docker", agent=make(model), idle_timeout_s=1.0, on_idle="pause") as session,
    ):
        assert (await session.run("Think")).text == "At last."
        assert "paused" not in passed(session)


@BOTH
@pytest.mark.parametrize("how", ["pause", "save"])
async def test_it_sleeps_and_wakes(engine: str, tmp_path: Path, make: Make, how: str) -> None:
    model = ScriptedModel([call(name_of(make), command=WORK), say("A violin."), say("As I said.")])
    asleep = "paused" if how == "pause" else "saved"
    async with model, Store(f"sqlite:///{tmp_path}/store.db") as store:
        async with Session(
            "docker",
            agent=make(model),
            store=store if how == "save" else None,
            idle_timeout_s=1.0,
            on_idle=how,
        ) as session:
            first = await session.run("Name an instrument")
            with anyio.fail_after(LONG_S):
                await session.states.reached(asleep)  # type: ignore[arg-type]
            slept = session.machine.seconds
            assert session.machine.seconds == slept  # it has stopped
            second = await session.run("Which one?")
            assert second.text == "As I said."
            assert await session.sandbox.files.read_text("file") == "one\n"
            assert second.session_id == first.session_id == session.id
            assert session.machine.seconds > slept
        assert "A violin." in spoken(model)
        if how == "pause":
            expected = ["idle", "paused", "ready", "running", "ready"]
        else:
            expected = ["idle", "saved", "creating", "ready", "running", "ready"]
        states = passed(session)
        at = states.index("idle")
        assert states[at : at + len(expected)] == expected
