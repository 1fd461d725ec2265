"""Twenty sandboxes at once on each cloud: all answer, all end."""

from __future__ import annotations

import asyncio

import pytest

import sandboxkit as sk
from tests.clouds.test_creating import gone, name_of
from tests.emulators.emulator import Emulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MANY = 20


async def test_twenty_at_once(cloud: Emulator) -> None:
    async def one(number: int) -> str:
        async with sk.Sandbox.create(name_of(cloud)) as sandbox:
            await sandbox.files.write("number", str(number))
            return (await sandbox.sh("cat number; sleep 1", check=True)).text

    said = await asyncio.gather(*(one(number) for number in range(MANY)))
    assert said == [str(number) for number in range(MANY)]
    assert await gone(cloud)
