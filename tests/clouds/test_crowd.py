"""Twenty sandboxes at once on each cloud: all answer, all end, and no SDK holds the loop up."""

from __future__ import annotations

import asyncio

import pytest

from sandboxkit import Sandbox
from tests.blocking import watch
from tests.busy import steps_longer_than
from tests.clouds.test_creating import gone, name_of
from tests.emulators.emulator import Emulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MANY = 20
LONGEST_S = 0.02


async def test_twenty_at_once(cloud: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    everybody_is_there = asyncio.Barrier(MANY)

    async def one(number: int) -> str:
        async with Sandbox.create(name_of(cloud)) as sandbox:
            await everybody_is_there.wait()
            await sandbox.files.write("number", str(number))
            said = (await sandbox.sh("cat number; sleep 1", check=True)).text
            await everybody_is_there.wait()
        return said

    monkeypatch.setattr(watch, "all_on", asyncio.get_running_loop())
    with steps_longer_than(LONGEST_S) as long:
        said = await asyncio.gather(*(one(number) for number in range(MANY)))
    assert said == [str(number) for number in range(MANY)]
    assert not long
    assert await gone(cloud)
