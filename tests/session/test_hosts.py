"""Named sessions of real processes on a real engine: at once, killed, one after the other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import sandboxkit as sk
from sandboxkit.errors import InvalidSpecError
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.session import Session
from sandboxkit.session.alone import alone
from sandboxkit.spec import NAME_LABEL, OWNER_LABEL
from sandboxkit.store import Store
from sandboxkit.testing import ScriptedModel, call, say
from tests.agents.messages_agent import agent
from tests.leaks import OWNER
from tests.session.host import Host
from tests.session.quiet import Quiet

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(300)]


@pytest.fixture
def name() -> str:
    return f"n-{uuid4().hex[:12]}"


@pytest.fixture
async def provider(engine: str) -> AsyncIterator[DockerProvider]:
    provider = DockerProvider(host=engine)
    yield provider
    await provider.aclose()


async def living(provider: DockerProvider, name: str) -> set[str]:
    labels = {OWNER_LABEL: OWNER, NAME_LABEL: name}
    return {info.id async for info in provider.list(labels)}


async def rounds(provider: DockerProvider, hosts: list[Host], count: int) -> None:
    for number in range(count):
        name = f"round-{number}-{uuid4().hex[:8]}"
        said = await asyncio.gather(*(host.ask(name) for host in hosts))
        assert len(set(said)) == 1, said  # the same sandbox, and the same session
        assert await living(provider, name) == {said[0].split()[0]}
        assert await asyncio.gather(*(host.ask("leave") for host in hosts)) == ["left"] * len(hosts)
        await Session(provider, name=name).destroy()
        assert await living(provider, name) == set()


async def two(tmp_path: Path, *, machines: bool) -> list[Host]:
    states = [tmp_path / "a", tmp_path / "b"] if machines else [None, None]
    return list(await asyncio.gather(*(Host.start("docker", state=state) for state in states)))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("machines", [False, True], ids=["processes", "machines"])
@pytest.mark.parametrize(
    "times",
    [2, pytest.param(20, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.chaos)],
)
async def test_two_at_once(
    provider: DockerProvider, tmp_path: Path, machines: bool, times: int
) -> None:
    hosts = await two(tmp_path, machines=machines)
    await rounds(provider, hosts, times)
    assert [await host.end() for host in hosts] == [0, 0]


async def test_a_holder_of_the_lock_that_is_killed(name: str) -> None:
    """Who waits gets it, and needs no time-out; a child that the holder has forked is no holder."""
    before = f"""
from sandboxkit.ownership import owner
from sandboxkit.session.alone import alone
async def hold():
    async with alone(owner(), {name!r}):
        child = os.fork()
        if not child:
            signal.pause()
        print("ready", flush=True)
        print(child, flush=True)
        await asyncio.sleep(600)
asyncio.run(hold())
"""
    holder = await Host.start("docker", before=before)
    child = int(await holder.said())

    async def wait() -> str:
        async with alone(OWNER, name) as lock:
            return lock.key

    try:
        waiting = asyncio.ensure_future(wait())
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
        holder.process.kill()
        assert await asyncio.wait_for(waiting, 30) == ""
    finally:
        os.kill(child, signal.SIGKILL)
        await holder.process.communicate()  # ends when nobody has its pipes any more


KILLED = {
    "created": "from sandboxkit.providers.docker.engine import Engine; Engine.open = die",
    "connected": "from sandboxkit.session.memo import Memo; Memo.write = die",
}


@pytest.mark.parametrize("when", list(KILLED))
async def test_killed_while_it_makes_one(provider: DockerProvider, name: str, when: str) -> None:
    """What it has made is not taken, and is removed; its name is free at once."""
    host = await Host.start("docker", before=KILLED[when])
    host.tell(name)
    assert await host.process.wait() == -signal.SIGKILL
    left = await living(provider, name)
    async with Session(provider, agent=Quiet(), name=name) as session:
        assert await living(provider, name) == {session.sandbox.id}
        assert session.sandbox.id not in left
        await session.destroy()


async def test_its_time_is_over(provider: DockerProvider, name: str) -> None:
    host = await Host.start("docker", keep_s=2)
    sandbox, session_id = (await host.ask(name)).split()
    await host.kill()
    async with asyncio.timeout(60):
        while await living(provider, name):
            await asyncio.sleep(0.2)
    async with Session(provider, agent=Quiet(), name=name) as session:
        assert session.sandbox.id != sandbox
        assert session.id != session_id
        await session.destroy()


async def test_a_paused_one_is_woken(provider: DockerProvider, name: str) -> None:
    async with Session(provider, agent=Quiet(), name=name) as one:
        await one.sandbox.files.write("notes", "kept")
        await one.sandbox.pause()
        with pytest.raises(InvalidSpecError, match="cpu"):
            await Session(provider, agent=Quiet(), name=name, cpu=0.5).__aenter__()
        async with Session(provider, agent=Quiet(), name=name) as two:
            assert two.sandbox.id == one.sandbox.id
            assert await two.sandbox.files.read_text("notes") == "kept"
        await one.sandbox.resume()
        await one.destroy()


async def test_one_that_is_paused_when_it_is_idle(provider: DockerProvider, name: str) -> None:
    """Whichever host pauses it, each can wake it."""
    idle: dict[str, Any] = {"idle_timeout_s": 1.0, "on_idle": "pause"}
    async with Session(provider, agent=Quiet(), name=name, **idle):
        pass
    async with Session(provider, agent=Quiet(), name=name, **idle) as one:
        async with asyncio.timeout(60):
            await one.states.reached("paused")
        async with Session(provider, agent=Quiet({one.id}), name=name) as two:
            assert two.sandbox.id == one.sandbox.id
            assert (await two.sandbox.sh("echo here")).text == "here\n"
        await one.wake()
        assert (await one.run("Begin")).text == one.id
        await one.destroy()


async def test_the_agent_cannot_take_its_sandboxs_name(name: str) -> None:
    """What is written down for other hosts is out of its reach, and so is who writes it."""
    trap = "mkdir bin && printf '#!/bin/sh\\ntouch /tmp/trapped\\n' > bin/head && chmod +x bin/head"
    env = {"PATH": "/work/bin:/usr/bin:/bin"}
    async with Session("docker", agent=Quiet(), name=name, env=env) as one:
        for attempt in ("rm -f", "cat", "chmod 666"):
            done = await one.sandbox.sh(f"{attempt} /run/sandboxkit-session")
            assert done.exit_code != 0
        await one.sandbox.sh(f"{trap} && cp bin/head bin/cat && cp bin/head bin/sh", check=True)
    async with Session("docker", agent=Quiet(), name=name) as two:
        assert two.id == one.id
        assert not await two.sandbox.files.exists("/tmp/trapped")
        await two.destroy()


async def test_the_same_way_out_as_before(provider: DockerProvider, name: str) -> None:
    """The list of hosts goes on with the host that comes, which need not write it again."""
    policy = sk.NetworkPolicy.allow(["example.com"])
    async with Session(provider, agent=Quiet(), name=name, network=policy) as one:
        assert one.sandbox.network.policy == policy
    async with Session(provider, agent=Quiet(), name=name) as two:
        assert two.sandbox.network.policy == policy
        assert two.sandbox.info.effective.network == "allow"
    async with Session(provider, agent=Quiet(), name=name, network="none") as three:
        assert three.sandbox.network.policy.mode == "none"
    with pytest.raises(InvalidSpecError, match="network"):
        await Session(provider, agent=Quiet(), name=name, network="open").__aenter__()
    async with Session(provider, agent=Quiet(), name=name, network=policy) as four:
        refused = await four.sandbox.sh("echo $https_proxy")
        assert refused.text.startswith("http://")
        await four.destroy()


# the conversation


def said(model: ScriptedModel, number: int) -> str:
    return json.dumps([message.model_dump() for message in model.requests[number].messages])


async def test_the_messages_agent_goes_on(name: str, tmp_path: Path) -> None:
    model = ScriptedModel([say("A violin."), say("As I said.")])
    async with model:
        async with Session("docker", agent=agent(model, store=tmp_path), name=name) as one:
            await one.run("Name an instrument")
        async with Session("docker", agent=agent(model, store=tmp_path), name=name) as two:
            assert two.id == one.id
            await two.run("Which one?")
            await two.destroy()
    assert "A violin." in said(model, 1)


# with a store


async def test_out_of_the_store_when_it_does_not_live(
    provider: DockerProvider, name: str, tmp_path: Path
) -> None:
    model = ScriptedModel(
        [call("bash", command="echo x > f"), say("A violin."), say("Yes."), say("!")]
    )
    async with model, Store(f"sqlite:///{tmp_path}/store.db") as store:
        async with Session("docker", agent=agent(model), name=name, store=store) as one:
            await one.run("Name an instrument")
        async with Session("docker", agent=agent(model), name=name, store=store) as two:
            assert two.id == one.id
            assert two.create_s == 0
            await two.run("Which one?")  # it lives, and is kept on
            (sandbox,) = await living(provider, name)
        await provider.destroy(sandbox)
        async with Session("docker", agent=agent(model), name=name, store=store) as three:
            assert three.id == one.id
            assert three.create_s > 0
            assert await three.sandbox.files.read_text("f") == "x\n"
            await three.run("Sure?")
            await three.destroy()
        assert "A violin." in said(model, 2)
        assert "Which one?" in said(model, 3)
        assert (await store.get(one.id)).state == "saved"
        assert await store.sessions.named(name) is None  # it is free, and the session is kept
        async with Session("docker", agent=agent(model), name=name, store=store) as four:
            assert four.id != one.id
            await four.destroy()


async def test_a_living_one_that_is_in_no_store(name: str, tmp_path: Path) -> None:
    async with Session("docker", agent=Quiet(), name=name):
        pass
    async with Store(f"sqlite:///{tmp_path}/store.db") as store:
        with pytest.raises(InvalidSpecError, match="not kept in this store"):
            await Session("docker", agent=Quiet(), name=name, store=store).__aenter__()
    await Session("docker", name=name).destroy()
