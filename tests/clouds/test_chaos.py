"""Hybrid sessions on each cloud: killed hosts, cut lines, outages, sandboxes that are gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.session import Session
from sandboxkit.testing import ScriptedModel, say
from tests.chaos.hybrid import Chaos, Fault, Tally, nothing_is_left
from tests.clouds.test_creating import name_of
from tests.emulators import faults
from tests.emulators.emulator import Emulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CREATES = 2  # that an outage refuses


async def chaos(
    cloud: Emulator, directory: Path, patch: pytest.MonkeyPatch, agent: str, batches: int
) -> None:
    patch.setenv("SANDBOXKIT_JOURNAL", str(directory / "state" / "journal.db"))

    async def delete(ids: Sequence[str]) -> None:
        for each in ids:
            with contextlib.suppress(Exception):  # it has ended meanwhile
                await asyncio.to_thread(cloud.end_now, each)

    async def outage() -> None:
        cloud.faults.add(faults.Fault("create", "refuse", times=CREATES))

    async def all_gone() -> None:
        await delete(sorted(cloud.sandboxes()))

    async def alive() -> set[str]:
        return cloud.sandboxes()

    more: dict[str, Fault] = {"outage": outage, "restart": all_gone}
    tally, name = Tally(), name_of(cloud)
    for seed in range(batches):
        one = Chaos(
            name,
            agent=agent,
            directory=directory / f"batch-{seed}",
            sessions=5 if agent == "messages" else 2,
            prompts=4,
            seed=seed,
            delete=delete,
            more=more,
        )
        await one.run(6, tally)
    cloud.faults.clear()
    await nothing_is_left(name, alive, patch)
    print(name, agent, tally)  # noqa: T201 - `pytest -rP` shows it


@pytest.mark.parametrize("batches", [1, pytest.param(20, marks=pytest.mark.chaos, id="a hundred")])
async def test_messages(
    cloud: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    await chaos(cloud, tmp_path, monkeypatch, "messages", batches)


@pytest.mark.chaos
async def test_claude_code(
    cloud: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The image with the CLI in it is built here, and not while the faults strike.
    async with ScriptedModel([say("Hello.")]) as model:
        async with Session(name_of(cloud), agent=ClaudeCode(model_url=model.url)) as session:
            await session.run("Hello?")
    await chaos(cloud, tmp_path, monkeypatch, "claude-code", 1)
