"""Named sessions on every backend: found right after they were made, by whoever asks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest

import sandboxkit as sk
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.providers.registry import providers
from sandboxkit.reaping.look import look
from sandboxkit.session import Session
from sandboxkit.testing import ScriptedModel, say
from tests.clouds.conftest import Backend
from tests.session.host import Host
from tests.session.quiet import Quiet

pytestmark = pytest.mark.timeout(300)  # the first builds an image


@pytest.fixture
def name() -> str:
    return f"n-{uuid4().hex[:12]}"


@pytest.mark.parametrize("machines", [False, True], ids=["processes", "machines"])
async def test_two_hosts_at_once(
    backend: Backend, name: str, tmp_path: Path, machines: bool
) -> None:
    states = [tmp_path / "a", tmp_path / "b"] if machines else [None, None]
    hosts = [await Host.start(backend.name, state=state) for state in states]
    for round_name in (name, f"{name}-again"):
        said = await asyncio.gather(*(host.ask(round_name) for host in hosts))
        assert len(set(said)) == 1
        assert await backend.alive() == {said[0].split()[0]}
        assert await asyncio.gather(*(host.ask("leave") for host in hosts)) == ["left", "left"]
        await Session(backend.name, name=round_name).destroy()
        assert await backend.alive() == set()
    assert [await host.end() for host in hosts] == [0, 0]


async def test_a_killed_host_and_the_next(backend: Backend, name: str) -> None:
    host = await Host.start(backend.name)
    sandbox, session_id = (await host.ask(name)).split()
    await host.kill()
    (one,) = await sk.reap(backend.name)
    assert (one.info.id, one.action) == (sandbox, "kept")
    async with Session(backend.name, agent=Quiet(), name=name) as session:
        assert (session.sandbox.id, session.id) == (sandbox, session_id)
        await session.destroy()
    assert await backend.alive() == set()


async def test_a_host_that_was_killed_before_the_guest(backend: Backend, name: str) -> None:
    host = await Host.start(
        backend.name, before="import sandboxkit.lifecycle as l; l.GuestClient = die"
    )
    host.tell(name)
    assert await host.process.wait() < 0
    left = await backend.alive()
    async with Session(backend.name, agent=Quiet(), name=name) as session:
        assert session.sandbox.id not in left
        assert await backend.alive() == {session.sandbox.id}
        await session.destroy()
    assert await backend.alive() == set()


async def test_one_whose_guest_has_ended(backend: Backend, name: str) -> None:
    """It was idle. Not every backend ends the machine with it."""
    async with Session(backend.name, agent=Quiet(), name=name, idle_timeout_s=1) as one:
        sandbox = one.sandbox
    provider = providers.make(backend.name)
    async with asyncio.timeout(60):
        while await look(provider, sandbox.id) == "living":
            await asyncio.sleep(0.1)
    async with Session(provider, agent=Quiet(), name=name) as two:
        assert two.sandbox.id != sandbox.id
        assert await backend.alive() == {two.sandbox.id}
        await two.destroy()
    await provider.aclose()


async def test_the_conversation_goes_on(backend: Backend, name: str) -> None:
    model = ScriptedModel([say("A violin."), say("As I said.")])
    async with model:
        async with Session(backend.name, agent=ClaudeCode(model_url=model.url), name=name) as one:
            await one.run("Name an instrument")
        async with Session(backend.name, agent=ClaudeCode(model_url=model.url), name=name) as two:
            assert two.id == one.id
            await two.run("Which one?")
            await two.destroy()
    last = [message.model_dump() for message in model.requests[-1].messages]
    assert "A violin." in json.dumps(last)
    assert await backend.alive() == set()
