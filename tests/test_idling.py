"""Sessions that sleep, in memory: each way to sleep, each moment, and what fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, ClassVar

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.agents.base import Agent, Conversation, Latency, RunResult, Usage
from sandboxkit.agents.events import Event, Finished
from sandboxkit.errors import AsleepError, CapacityError, SandboxNotFoundError
from sandboxkit.session.states import SessionState, StateChange
from sandboxkit.testing import MemoryProvider

if TYPE_CHECKING:
    from sandboxkit.gateway.model.account import Account

LONG_S = 30.0
IDLE_S = 0.3
WAYS = pytest.mark.parametrize("how", ["pause", "snapshot"])


class Writer(Agent):
    """Adds each prompt to a file; its conversation is the file."""

    name: ClassVar[str] = "writer"
    interface_version: ClassVar[int] = 1
    thinks_s: ClassVar[float] = 0.0

    async def prepare(self, spec: sk.SandboxSpec) -> sk.SandboxSpec:
        return spec

    async def start(
        self, sandbox: sk.Sandbox, account: Account, *, session_id: str, resume: bool
    ) -> Conversation:
        return Page(sandbox, session_id, self.thinks_s)


class Slow(Writer):
    thinks_s = 3 * IDLE_S


class Page(Conversation):
    def __init__(self, sandbox: sk.Sandbox, session_id: str, thinks_s: float) -> None:
        self._sandbox, self._session_id, self._thinks_s = sandbox, session_id, thinks_s

    async def turn(self, prompt: str) -> AsyncGenerator[Event]:
        await asyncio.sleep(self._thinks_s)
        text = ""
        with contextlib.suppress(FileNotFoundError):
            text = await self._sandbox.files.read_text("page")
        await self._sandbox.files.write("page", f"{text}{prompt};")
        yield Finished(result(f"{text}{prompt};", self._session_id))

    async def interrupt(self) -> None:
        return

    async def settle(self) -> RunResult | None:
        return None

    async def aclose(self) -> None:
        return


def result(text: str, session_id: str) -> RunResult:
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
        session_id=session_id,
    )


@pytest.fixture
def memory() -> MemoryProvider:
    can = sk.Capabilities(
        isolation="none", network=frozenset(), images=True, pause=True, snapshot=True
    )
    provider = MemoryProvider(capabilities=can)
    provider.on(["work"], lambda call: None)
    return provider


def session_of(memory: MemoryProvider, how: str, agent: Agent | None = None) -> sk.Session:
    return sk.Session(memory, agent=agent or Writer(), on_idle=how, idle_timeout_s=IDLE_S, wait_s=0)


async def reached(session: sk.Session, *states: SessionState) -> None:
    with anyio.fail_after(LONG_S):
        await session.states.reached(*states)


async def ids(memory: MemoryProvider) -> list[str]:
    found: AsyncIterator[sk.SandboxInfo] = memory.list({})
    return [info.id async for info in found]


@WAYS
async def test_it_sleeps_and_wakes_again_and_again(memory: MemoryProvider, how: str) -> None:
    async with session_of(memory, how) as session:
        text = ""
        for prompt in ("one", "two", "three"):
            text += f"{prompt};"
            assert (await session.run(prompt)).text == text
            await reached(session, "paused", "saved")
            assert len(await ids(memory)) == (how == "pause")
            assert len(memory.images) == (how == "snapshot")
        slept = session.machine.seconds
        assert session.machine.seconds == slept
    assert await ids(memory) == []
    assert memory.images == frozenset()


@WAYS
async def test_a_long_turn_is_not_idle(memory: MemoryProvider, how: str) -> None:
    async with session_of(memory, how, Slow()) as session:
        assert (await session.run("one")).text == "one;"
        assert "idle" not in [change.after for change in session.states.changes]


async def test_without_a_machine(memory: MemoryProvider) -> None:
    async with session_of(memory, "snapshot") as session:
        sandbox = session.sandbox
        await reached(session, "saved")
        with pytest.raises(AsleepError, match=r"session\.wake"):
            session.sandbox  # noqa: B018
        await session.wake()
        assert session.sandbox is not sandbox
        assert session.states.now == "ready"


async def test_use_of_a_paused_one_wakes_it(memory: MemoryProvider) -> None:
    async with session_of(memory, "pause") as session:
        await reached(session, "paused")
        with anyio.fail_after(LONG_S):
            assert (await session.sandbox.exec(["work"])).exit_code == 0
        await reached(session, "ready")


@WAYS
@pytest.mark.parametrize("moment", ["idle", "asleep"])
async def test_many_prompts_at_once_wait_for_one_waking(
    memory: MemoryProvider, how: str, moment: str
) -> None:
    """One is answered; the others hear that it is busy, as ever."""
    async with session_of(memory, how) as session:
        prompts: list[asyncio.Task[RunResult]] = []
        wanted = {"idle"} if moment == "idle" else {"paused", "saved"}

        def told(change: StateChange) -> None:
            if change.after in wanted and not prompts:
                prompts.extend(asyncio.ensure_future(session.run(str(n))) for n in range(3))

        end = session.states.listen(told)
        await reached(session, "running")
        end()
        done = await asyncio.gather(*prompts, return_exceptions=True)
        assert [one.text for one in done if isinstance(one, RunResult)] == ["0;"]
        assert len([one for one in done if isinstance(one, sk.SandboxError)]) == 2


@WAYS
async def test_wakers_at_once(memory: MemoryProvider, how: str) -> None:
    async with session_of(memory, how) as session:
        await reached(session, "paused", "saved")
        await asyncio.gather(*(session.wake() for _ in range(10)))
        assert memory.creates == (1 if how == "pause" else 2)


@WAYS
@pytest.mark.parametrize("steps", range(0, 12, 3))
async def test_cancelled_at_any_step_of_waking(
    memory: MemoryProvider, how: str, steps: int
) -> None:
    async with session_of(memory, how) as session:
        await session.run("one")
        await reached(session, "paused", "saved")
        prompt = asyncio.ensure_future(session.run("two"))
        for _ in range(steps):
            await asyncio.sleep(0)
        prompt.cancel()
        await asyncio.wait({prompt})
        with anyio.fail_after(LONG_S):
            text = (await session.run("three")).text
        assert text in {"one;three;", "one;two;three;"}
    assert await ids(memory) == []


@WAYS
@pytest.mark.parametrize("steps", range(0, 12, 3))
async def test_closed_at_any_step_of_falling_asleep(
    memory: MemoryProvider, how: str, steps: int
) -> None:
    async with session_of(memory, how) as session:
        await reached(session, "idle")
        for _ in range(steps):
            await asyncio.sleep(0)
    assert session.states.now == "closed"
    assert await ids(memory) == []
    assert memory.images == frozenset()


async def test_no_room_when_it_wakes(memory: MemoryProvider) -> None:
    async with session_of(memory, "snapshot") as session:
        await session.run("one")
        await reached(session, "saved")
        memory.refuse(CapacityError("full"))
        with pytest.raises(CapacityError):
            await session.run("two")
        assert session.states.now == "failed"
        assert (await session.run("two")).text == "one;two;"
    assert memory.images == frozenset()


async def test_gone_while_it_was_paused(memory: MemoryProvider) -> None:
    async with session_of(memory, "pause") as session:
        await reached(session, "paused")
        await memory.destroy(session.sandbox.id)
        for _ in range(2):
            with pytest.raises(SandboxNotFoundError):
                await session.wake()
            assert session.states.now == "failed"
