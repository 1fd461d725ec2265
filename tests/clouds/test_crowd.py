"""Twenty sandboxes at once on each cloud: all answer, all end, and no SDK holds the loop up."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE

import pytest

from tests.clouds.crowd import MANY
from tests.clouds.test_creating import gone, name_of
from tests.emulators.emulator import Emulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# An SDK that holds the loop up does so in each fresh process. A hypervisor that takes the
# processor away is counted to whoever runs (`tests/busy.py` cannot see it), but not each time.
TRIES = 3


async def test_twenty_at_once(cloud: Emulator) -> None:
    long = list[str]()
    for _ in range(TRIES):
        found = await in_a_process_of_its_own(name_of(cloud))
        assert found["said"] == [str(number) for number in range(MANY)]
        assert found["blocking"] == []
        assert await gone(cloud)
        if not (long := found["long"]):
            break
    assert not long


async def in_a_process_of_its_own(provider: str) -> dict[str, list[str]]:
    crowd = (sys.executable, "-m", "tests.clouds.crowd", provider)
    process = await asyncio.create_subprocess_exec(*crowd, stdout=PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, list[str]] = json.loads(said)
    return found
