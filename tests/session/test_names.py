"""Named sessions: taken up or made, one sandbox for each name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

import sandboxkit as sk
from sandboxkit.errors import AgentError, CapacityError, InvalidSpecError
from sandboxkit.providers.base import SandboxHandle, SandboxInfo
from sandboxkit.session import Session, named
from sandboxkit.spec import (
    KEY_LABEL,
    LEASE_LABEL,
    NAME_LABEL,
    SESSION_LABEL,
    SandboxSpec,
)
from sandboxkit.testing import MemoryProvider
from tests.session.memory import NAME, living, memory
from tests.session.quiet import Quiet

# made, left, taken up, ended


async def test_made_left_and_taken_up() -> None:
    provider, agent = memory(), Quiet()
    async with Session(provider, agent=agent, name=NAME) as one:
        sandbox = one.sandbox
        await sandbox.files.write("notes", "kept")
        labels = sandbox.info.labels
        assert (labels[NAME_LABEL], labels[SESSION_LABEL]) == (NAME, one.id)
        assert labels[LEASE_LABEL] == "3600"
        assert one.create_s > 0
        await one.run("Begin")
    assert await living(provider) == {sandbox.id}
    assert agent.ended == ["detached"]
    async with Session(provider, agent=agent, name=NAME) as two:
        assert (two.id, two.sandbox.id) == (one.id, sandbox.id)
        assert two.create_s == 0
        assert await two.sandbox.files.read_text("notes") == "kept"
        assert agent.starts == [(one.id, False), (one.id, True)]
        await two.destroy()
    assert agent.ended == ["detached", "closed"]
    assert await living(provider) == set()
    async with Session(provider, agent=agent, name=NAME) as three:
        assert three.id != one.id
        await three.destroy()
    assert provider.creates == 2


async def test_two_hosts_at_once_have_the_same_sandbox() -> None:
    provider = memory()
    async with Session(provider, agent=Quiet(), name=NAME) as one:
        async with Session(provider, agent=Quiet({one.id}), name=NAME) as two:
            assert two.sandbox.id == one.sandbox.id
        await one.sandbox.files.write("still", "here")
        await one.destroy()


async def test_twenty_tasks_at_once() -> None:
    provider = memory()

    async def host() -> str:
        async with Session(provider, agent=Quiet(), name=NAME) as session:
            return session.sandbox.id

    assert len(set(await asyncio.gather(*(host() for _ in range(20))))) == 1
    assert provider.creates == 1
    await Session(provider, name=NAME).destroy()
    assert await living(provider) == set()


async def test_destroyed_without_being_entered() -> None:
    provider = memory()
    nobody = Session(provider, name=NAME)
    await nobody.destroy()  # nothing there is success
    assert nobody.states.now == "closed"
    async with Session(provider, agent=Quiet(), name=NAME):
        pass
    async with Session(provider, agent=Quiet(), name="another") as other:
        await Session(provider, name=NAME).destroy()
        assert await living(provider) == {other.sandbox.id}
        await other.destroy()


async def test_a_name_is_its_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = memory()
    async with Session(provider, agent=Quiet(), name=NAME) as mine:
        monkeypatch.setattr(named, "owner", lambda: "somebody-else")
        await Session(provider, name=NAME).destroy()
        assert await living(provider) == {mine.sandbox.id}
        monkeypatch.undo()
        await mine.destroy()


async def test_what_fails_at_the_beginning_leaves_nothing_behind() -> None:
    provider, agent = memory(), Quiet()
    agent.fails = True
    with pytest.raises(AgentError, match="does not start"):
        await Session(provider, agent=agent, name=NAME).__aenter__()
    assert await living(provider) == set()
    async with Session(provider, agent=Quiet(), name=NAME) as one:
        pass
    with pytest.raises(AgentError, match="does not start"):
        await Session(provider, agent=agent, name=NAME).__aenter__()
    (left,) = await living(provider)  # what was there before is still there
    async with Session(provider, agent=Quiet(), name=NAME) as two:
        assert (two.id, two.sandbox.id) == (one.id, left)
        await two.destroy()


async def test_a_refused_creation_leaves_the_name_free() -> None:
    provider = memory()
    provider.refuse(CapacityError("full"))
    with pytest.raises(CapacityError):
        await Session(provider, agent=Quiet(), name=NAME, wait_s=0).__aenter__()
    async with Session(provider, agent=Quiet(), name=NAME) as session:
        await session.destroy()


async def test_cancelled_while_it_waits_for_another() -> None:
    creating, go_on = asyncio.Event(), asyncio.Event()

    class Held(MemoryProvider):
        async def create(self, spec: SandboxSpec) -> SandboxHandle:
            creating.set()
            await go_on.wait()
            return await super().create(spec)

    provider = Held()
    first = asyncio.ensure_future(Session(provider, agent=Quiet(), name=NAME).__aenter__())
    await creating.wait()
    second = asyncio.ensure_future(Session(provider, agent=Quiet(), name=NAME).__aenter__())
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await (await first).destroy()


async def test_cancelled_while_it_makes_one() -> None:
    class Cancelling(MemoryProvider):
        async def create(self, spec: SandboxSpec) -> SandboxHandle:
            entering.cancel()
            return await super().create(spec)

    provider = Cancelling()
    entering = asyncio.ensure_future(Session(provider, agent=Quiet(), name=NAME).__aenter__())
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert await living(provider) == set()


async def test_a_list_that_lags_behind() -> None:
    """A new sandbox is found by its key at once, and by labels only after a while."""

    class Lagging(MemoryProvider):
        async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
            async for info in super().list(labels):
                if KEY_LABEL in labels or listed.is_set():
                    yield info

    provider, listed = Lagging(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, listed.set)
    async with Session(provider, agent=Quiet(), name=NAME) as one:
        assert listed.is_set()  # only then can it be seen who else has made one
    listed.clear()
    async with Session(provider, agent=Quiet(), name=NAME) as two:
        assert two.id == one.id
        await two.destroy()


# leaving


async def test_left_by_hand_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[float] = []
    detach = sk.Sandbox.detach

    async def heard(self: sk.Sandbox, *, keep_s: float) -> None:
        said.append(keep_s)
        await detach(self, keep_s=keep_s)

    monkeypatch.setattr(sk.Sandbox, "detach", heard)
    provider = memory()
    async with Session(provider, agent=Quiet(), name=NAME, keep_s=600) as session:
        await session.detach(keep_s=5)
        assert session.states.now == "closed"
    async with Session(provider, agent=Quiet(), name=NAME, keep_s=600) as session:
        await session.detach()
    async with Session(provider, agent=Quiet(), name=NAME, lease_s=90, keep_s=600):
        pass
    assert said == [5, 600, 90]
    await Session(provider, name=NAME).destroy()
    async with Session(provider, agent=Quiet()) as session:
        with pytest.raises(InvalidSpecError, match="name="):
            await session.detach()
    assert await living(provider) == set()
