"""Hosts on several machines want one name: nothing but the backend decides."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from sandboxkit.ownership import for_session
from sandboxkit.providers.base import SandboxHandle, SandboxInfo
from sandboxkit.session import named
from sandboxkit.session.alone import Alone
from sandboxkit.session.named import LostNameError, Named, Taken
from sandboxkit.spec import (
    CREATED_LABEL,
    SandboxSpec,
)
from sandboxkit.testing import MemoryProvider
from tests.session.memory import NAME, living, memory


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
