"""A host is killed in the middle of a turn, which another one follows to its end."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import ScriptedModel
from tests.agents.adoption.first_host import TRUTH, Wanted, key
from tests.agents.adoption.hosts import follow, long_turn, said_by_cli, second


async def killed(wanted: Wanted, after_s: float) -> list[tuple[str, str]]:
    """Run a host, and kill it some time after its first event; what it has written down."""
    journal = anyio.Path(wanted.journal)
    await journal.touch()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.agents.adoption.first_host", json.dumps(asdict(wanted))
    )
    try:
        with anyio.fail_after(60):
            while not await journal.read_text() and child.returncode is None:
                await asyncio.sleep(0.02)
        await asyncio.sleep(after_s)
    finally:
        assert child.returncode is None
        child.send_signal(signal.SIGKILL)
        await child.wait()
    lines = (await journal.read_text()).splitlines()
    return [(name, position) for name, position in map(json.loads, lines)]


async def one_round(sandbox: Sandbox, folder: Path, delays: list[float]) -> None:
    """One turn, of which each of several hosts sees a part."""
    await sandbox.files.write(TRUTH, "")
    session_id, seen = str(uuid4()), list[tuple[str, str]]()
    async with ScriptedModel(long_turn) as model:
        for number, delay_s in enumerate(delays):
            after = seen[-1][1] if seen else None
            journal = str(folder / f"{session_id}-{number}")
            wanted = Wanted(
                sandbox.id, model.url, session_id, journal, follow=number > 0, after=after
            )
            seen += await killed(wanted, delay_s)
        async with second(sandbox, model, session_id) as session:
            rest = [] if seen[-1][0].startswith("Finished") else await follow(session, seen[-1][1])
            everything = [name for name, _ in seen] + [key(event) for event in rest]
            assert everything == await said_by_cli(sandbox)
            assert (await session.run("And then?")).text.startswith("end")


async def test_a_host_is_killed_and_the_rest_of_the_turn_comes_once(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """In the middle of the model's answer."""
    await one_round(sandbox, tmp_path, [0.4])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=pytest.mark.slow if n < 3 else pytest.mark.chaos) for n in range(20)],
)
async def test_hosts_are_killed_at_any_moment(sandbox: Sandbox, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    delays = [chance.uniform(0, 2.5) for _ in range(chance.randint(1, 2))]
    await one_round(sandbox, tmp_path, delays)
