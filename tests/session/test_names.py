"""Named sessions: taken up or made, one sandbox for each name, never silently less."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import sandboxkit as sk
from sandboxkit.agents.messages import Messages
from sandboxkit.errors import AgentError, CapacityError, InvalidSpecError
from sandboxkit.ownership import for_session
from sandboxkit.providers.base import Capabilities, SandboxHandle, SandboxInfo
from sandboxkit.session import Session, named
from sandboxkit.session.alone import Alone
from sandboxkit.session.named import LostNameError, Named, Taken
from sandboxkit.spec import (
    CREATED_LABEL,
    KEY_LABEL,
    LEASE_LABEL,
    NAME_LABEL,
    SESSION_LABEL,
    SandboxSpec,
)
from sandboxkit.testing import Answer, MemoryProvider
from tests.session.quiet import Quiet

NAME = "site-builder"


def memory(**claims: Any) -> MemoryProvider:
    can = Capabilities(isolation="none", network=frozenset({"none", "open"}), **claims)
    return MemoryProvider(capabilities=can)


async def living(provider: MemoryProvider) -> set[str]:
    return {info.id async for info in provider.list({})}


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


# the conversation


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


# what it is


@pytest.mark.parametrize(
    ("made", "asked", "field"),
    [
        ({}, {"cpu": 2}, "cpu=1"),
        ({"cpu": 2}, {"cpu": 1}, "cpu=2"),
        ({}, {"workdir": "/srv"}, "workdir='/work'"),
        ({}, {"user": "somebody"}, "user="),
        ({"ports": (80,)}, {"ports": (80, 81)}, "ports="),
        ({"idle_timeout_s": 60}, {"idle_timeout_s": 90}, "idle_timeout_s=60"),
        ({"image": "one"}, {"image": "two"}, "image='one'"),
        ({}, {"image": "two"}, "image="),
        ({"labels": {"team": "a"}}, {"labels": {"team": "b"}}, "'a'"),
        ({"network": "none"}, {"network": "open"}, "network"),
        ({"network": "open"}, {"network": "none"}, "network"),
    ],
)
async def test_never_silently_less(
    made: Mapping[str, Any], asked: Mapping[str, Any], field: str
) -> None:
    provider = memory(limits=frozenset({"cpu"}), images=True, expose=True)
    async with Session(provider, agent=Quiet(), name=NAME, **made) as one:
        sandbox = one.sandbox.id
    with pytest.raises(InvalidSpecError, match=f"in use by a sandbox with .*{field}"):
        await Session(provider, agent=Quiet(), name=NAME, **asked).__aenter__()
    for same in (made, dict[str, Any]()):
        async with Session(provider, agent=Quiet(), name=NAME, **same) as again:
            assert again.sandbox.id == sandbox
    await Session(provider, name=NAME).destroy()


async def test_the_environment_is_compared_and_not_shown() -> None:
    provider = memory()
    provider.on(
        ["cat", "/proc/self/environ"],
        lambda call: Answer(stdout="\0".join(f"{k}={v}" for k, v in call.env.items())),
    )
    async with Session(provider, agent=Quiet(), name=NAME, env={"MODE": "one"}):
        pass
    async with Session(provider, agent=Quiet(), name=NAME, env={"MODE": "one"}):
        pass
    with pytest.raises(InvalidSpecError) as refused:
        await Session(provider, agent=Quiet(), name=NAME, env={"MODE": "two"}).__aenter__()
    assert "env['MODE']" in str(refused.value)
    assert "one" not in str(refused.value).replace("one first", "")
    await Session(provider, name=NAME).destroy()


async def test_what_was_put_up_with_is_no_limit() -> None:
    provider = memory()
    async with Session(provider, agent=Quiet(), name=NAME, cpu=2, strict=False):
        pass
    async with Session(provider, agent=Quiet(), name=NAME, cpu=2, strict=False):
        pass
    with pytest.raises(InvalidSpecError, match="no limit"):
        await Session(provider, agent=Quiet(), name=NAME, cpu=2).__aenter__()
    await Session(provider, name=NAME).destroy()


# what is refused before anything is made


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 64, "a/b", "a\n"])
async def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidSpecError, match="1 to 63 letters"):
        Session(memory(), name=name)


async def test_refused_combinations(engine: str) -> None:
    provider = memory()
    for names in (["docker", "e2b"], None, sk.Pool(provider, size=1)):
        with pytest.raises(InvalidSpecError, match=r"give (one|a) provider"):
            Session(names, name=NAME)
    async with sk.Sandbox.create(provider) as sandbox:
        with pytest.raises(InvalidSpecError, match="give one provider"):
            Session(sandbox, name=NAME)
    with pytest.raises(InvalidSpecError, match="either name or resume"):
        Session(provider, name=NAME, resume=str(uuid4()))
    with pytest.raises(InvalidSpecError, match="lease_s"):
        Session(provider, name=NAME, keep_s=0)
    with pytest.raises(InvalidSpecError, match="give it a name"):
        Session(provider, keep_s=60)
    in_memory = Messages(model_url="http://127.0.0.1:1", api_key="k")
    with pytest.raises(InvalidSpecError, match="store="):
        await Session(provider, agent=in_memory, name=NAME).__aenter__()
    assert provider.creates == 1


async def test_another_id_is_refused() -> None:
    provider, mine = memory(), str(uuid4())
    async with Session(provider, agent=Quiet(), name=NAME, id=mine) as one:
        assert one.id == mine
    with pytest.raises(InvalidSpecError, match=mine):
        await Session(provider, agent=Quiet(), name=NAME, id=str(uuid4())).__aenter__()
    async with Session(provider, agent=Quiet(), name=NAME, id=mine) as two:
        await two.destroy()


# several machines: nothing but the backend decides


class Slow(MemoryProvider):
    """Answers late, in any order; what is made is listed some time before its answer."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.choice((0, 0, 0.001, 0.005, 0.02)))

    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        await self._wait()
        handle = await super().create(spec)
        await self._wait()
        return handle

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        await self._wait()
        found = [info async for info in super().list(labels)]
        await self._wait()
        for info in found:
            yield info


async def machine(provider: MemoryProvider, after_s: float) -> Taken:
    """One host on a machine of its own: the lock keeps nobody out."""
    await asyncio.sleep(after_s)
    name = Named(NAME, provider, Alone(), SandboxSpec(), 60.0)
    while True:
        if (found := await name.find()) is not None:
            return found
        try:
            return await name.make(for_session(SandboxSpec(), str(uuid4())), None, 0.0)
        except LostNameError:
            continue


async def race(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(named, "_POLL_S", 0.002)
    provider = Slow(chance)
    hosts = [machine(provider, chance.choice((0, 0, 0.003, 0.02, 0.05))) for _ in range(4)]
    taken = await asyncio.gather(*hosts)
    assert await living(provider) == {one.sandbox.id for one in taken}, seed
    assert len({(one.sandbox.id, one.session) for one in taken}) == 1, seed
    for one in taken:
        assert (await one.sandbox.exec(["true"])).exit_code == 0
    for one in taken:
        await one.sandbox.destroy()


@pytest.mark.parametrize("seed", range(25))
async def test_races_between_machines(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await race(seed, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_races_between_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(1000, 2000):
        await race(seed, monkeypatch)


async def test_one_that_another_machine_never_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its maker has died before it was written down that it has the name."""
    monkeypatch.setattr(named, "_POLL_S", 0.002)
    monkeypatch.setattr(named, "PATIENCE_S", 0.05)
    provider = memory()
    name = Named(NAME, provider, Alone(), SandboxSpec(), 60.0)
    first = await machine(provider, 0)
    await first.sandbox.files.remove(f"{first.sandbox.home}/.sandboxkit/sandboxkit-session")
    taken = await machine(provider, 0)
    assert taken.sandbox.id != first.sandbox.id
    assert await living(provider) == {taken.sandbox.id}
    # An old one was finished: what was written in it has been lost since.
    await taken.sandbox.files.remove(f"{first.sandbox.home}/.sandboxkit/sandboxkit-session")
    created = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    (info,) = [info async for info in provider.list({})]
    assert isinstance(info.labels, dict)
    info.labels[CREATED_LABEL] = created
    again = await name.find()
    assert again is not None
    assert again.sandbox.id == taken.sandbox.id
    for one in (first, taken, again):
        await one.sandbox.destroy()


async def test_one_that_another_machine_is_still_making(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its maker cannot be seen here; however often it is looked at, it is waited for."""
    monkeypatch.setattr(named, "_POLL_S", 0.002)
    provider = memory()
    monkeypatch.setenv("SANDBOXKIT_JOURNAL", str(tmp_path / "there.db"))
    theirs = Named(NAME, provider, Alone(), SandboxSpec(), 60.0)
    switched, looking = asyncio.Event(), asyncio.Event()

    async def wins(*_: object) -> bool:
        monkeypatch.setenv("SANDBOXKIT_JOURNAL", str(tmp_path / "here.db"))
        switched.set()
        await looking.wait()
        return True

    monkeypatch.setattr(theirs.__class__, "_wins", wins)
    spec = for_session(SandboxSpec(), str(uuid4()))
    making = asyncio.ensure_future(theirs.make(spec, None, 0.0))
    await switched.wait()
    taken_up = 0
    attach = provider.attach

    async def counted(sandbox_id: str) -> SandboxHandle:
        nonlocal taken_up
        taken_up += 1
        if taken_up == 5:
            looking.set()
        return await attach(sandbox_id)

    monkeypatch.setattr(provider, "attach", counted)
    async with asyncio.timeout(30):
        found = await Named(NAME, provider, Alone(), SandboxSpec(), 60.0).find()
    assert found is not None
    made = await making
    assert found.sandbox.id == made.sandbox.id
    for one in (made, found):
        await one.sandbox.destroy()
