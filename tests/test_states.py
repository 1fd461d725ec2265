"""The states of a session: each change is told, and an impossible one is an error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

import pytest

import sandboxkit as sk
from sandboxkit.agents.base import Agent, Conversation, Latency, RunResult, Usage
from sandboxkit.agents.events import Event, Finished
from sandboxkit.errors import AgentError, CapacityError, InvalidStateError, SandboxDiedError
from sandboxkit.session.states import FOLLOWS, SessionState, StateMachine
from sandboxkit.spec import SESSION_LABEL
from sandboxkit.testing import MemoryProvider

if TYPE_CHECKING:
    from sandboxkit.gateway.model.account import Account

STATES: tuple[SessionState, ...] = get_args(SessionState)


class Parrot(Agent):
    """Says what it is told, unless it is told to do otherwise."""

    name: ClassVar[str] = "parrot"
    interface_version: ClassVar[int] = 1

    def __init__(self, *, starts: bool = True) -> None:
        self._starts = starts

    async def prepare(self, spec: sk.SandboxSpec) -> sk.SandboxSpec:
        return spec

    async def start(
        self, sandbox: sk.Sandbox, account: Account, *, session_id: str, resume: bool
    ) -> Conversation:
        if not self._starts:
            raise AgentError("it does not start")
        return Talk(session_id)


class Talk(Conversation):
    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._go_on = asyncio.Event()

    async def turn(self, prompt: str) -> AsyncGenerator[Event]:
        if prompt == "die":
            raise SandboxDiedError("the machine is gone")
        if prompt == "fail":
            raise AgentError("the agent is gone")
        if prompt == "wait":
            await self._go_on.wait()
        yield Finished(self._result(prompt))

    def _result(self, text: str) -> RunResult:
        return RunResult(
            text=text,
            messages=(),
            turns=1,
            stop_reason="end_turn",
            is_error=False,
            errors=(),
            usage=Usage(),
            cost_usd=None,
            latency=Latency(None, 0.0),
            session_id=self._session_id,
        )

    async def interrupt(self) -> None:
        self._go_on.set()

    async def settle(self) -> RunResult | None:
        return None

    async def aclose(self) -> None:
        return


def now(session: sk.Session) -> str:
    return session.states.now


def seen(session: sk.Session) -> list[str]:
    return [change.after for change in session.states.changes]


async def test_a_session_that_goes_well() -> None:
    provider = MemoryProvider()
    session = sk.Session(provider, agent=Parrot())
    heard: list[str] = []
    session.states.listen(lambda change: heard.append(f"{change.before} {change.after}"))
    followed = asyncio.create_task(follow(session))
    await asyncio.sleep(0)
    assert now(session) == "new"
    async with session:
        assert now(session) == "ready"
        assert session.sandbox.info.labels[SESSION_LABEL] == session.id
        assert (await session.run("hello")).text == "hello"
        waiting = asyncio.create_task(session.run("wait"))
        assert await session.states.reached("running") == "running"
        await session.interrupt()
        await waiting
        assert now(session) == "ready"
    assert now(session) == "closed"
    story = ["creating", "ready", "running", "ready", "running", "ready", "closed"]
    assert seen(session) == story
    assert [each.partition(" ")[2] for each in heard] == story
    assert heard[:2] == ["new creating", "creating ready"]
    assert await followed == story
    with pytest.raises(InvalidStateError):
        await session.states.reached("ready")


async def follow(session: sk.Session) -> list[str]:
    return [change.after async for change in session.states.follow()]


async def test_a_turn_that_is_left() -> None:
    async with sk.Session(MemoryProvider(), agent=Parrot()) as session:
        running = asyncio.create_task(session.run("wait"))
        await session.states.reached("running")
        running.cancel()
        await asyncio.wait({running})
        assert now(session) == "ready"
        assert (await session.run("again")).text == "again"


async def test_a_machine_that_cannot_be_made() -> None:
    provider = MemoryProvider()
    provider.refuse(CapacityError("full", retryable=False))
    session = sk.Session(provider, agent=Parrot(), wait_s=0)
    with pytest.raises(CapacityError):
        await session.__aenter__()
    assert seen(session) == ["creating", "failed"]
    assert "full" in session.states.changes[-1].why
    async with session:  # it may be tried again
        assert now(session) == "ready"


async def test_an_agent_that_does_not_start() -> None:
    session = sk.Session(MemoryProvider(), agent=Parrot(starts=False))
    with pytest.raises(AgentError):
        await session.__aenter__()
    assert seen(session) == ["creating", "failed", "closed"]


async def test_the_agent_fails_and_the_machine_dies() -> None:
    async with sk.Session(MemoryProvider(), agent=Parrot()) as session:
        with pytest.raises(AgentError):
            await session.run("fail")
        assert now(session) == "ready"  # the next prompt starts it again
        with pytest.raises(SandboxDiedError):
            await session.run("die")
        assert now(session) == "failed"
        assert session.states.changes[-1].why == "the machine is gone"
        with pytest.raises(InvalidStateError, match="cannot become running"):
            await session.run("hello")
    assert now(session) == "closed"


async def test_closed_without_having_been_entered() -> None:
    session = sk.Session(MemoryProvider(), agent=Parrot())
    await session.aclose()
    await session.aclose()
    assert seen(session) == ["closed"]


def to(state: SessionState) -> StateMachine:
    """A machine in that state, by the shortest way."""
    ways: dict[SessionState, list[SessionState]] = {"new": []}
    while state not in ways:
        for before, way in list(ways.items()):
            for after in FOLLOWS[before]:
                ways.setdefault(after, [*way, after])
    machine = StateMachine()
    for each in ways[state]:
        machine.to(each)
    return machine


@pytest.mark.parametrize("after", STATES)
@pytest.mark.parametrize("before", STATES)
def test_what_may_follow(before: SessionState, after: SessionState) -> None:
    machine = to(before)
    heard: list[object] = []
    machine.listen(heard.append)
    if after in FOLLOWS[before]:
        change = machine.to(after, "because")
        assert (change.before, change.after, change.why) == (before, after, "because")
        assert machine.now == after
        assert heard == [change]
    else:
        with pytest.raises(InvalidStateError, match=f"is {before} cannot become {after}"):
            machine.to(after)
        assert machine.now == before
        assert heard == []


def test_every_state_can_be_left_for_good() -> None:
    assert set(FOLLOWS) == set(STATES)
    assert all("closed" in FOLLOWS[state] for state in STATES if state != "closed")


def test_the_documentation_has_the_same_table() -> None:
    text = (Path(__file__).parent.parent / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| .+ \| ([^|]*)\|$", text.partition("## The states")[2], re.MULTILINE
    )
    told = {state: frozenset(re.findall(r"`(\w+)`", after)) for state, after in rows}
    assert told == FOLLOWS


def test_a_listener_that_fails_keeps_nobody_from_hearing() -> None:
    machine, heard = StateMachine(), list[object]()

    def fails(_change: object) -> None:
        raise ValueError("no")

    machine.listen(fails)
    end = machine.listen(heard.append)
    machine.to("creating")
    end()
    machine.to("ready")
    assert len(heard) == 1
