"""The machines behind the emulated clouds leave nothing, whenever what is done is cancelled."""

from __future__ import annotations

import pytest

from tests.cancelling import Work, cancel_at_every_await, nothing_lost
from tests.emulators.machines import Machines
from tests.leaks import things_on


async def test_whenever_a_run_is_cancelled(engine: str) -> None:
    async with nothing_lost():
        machines = Machines(engine)
        machine = await machines.create()

        async def begin() -> Work:
            return machine.run(["cat"], stdin=b"something")

        assert await cancel_at_every_await(begin) > 8
        await machines.aclose()


@pytest.mark.slow
async def test_whenever_a_create_is_cancelled(engine: str) -> None:
    before = things_on(engine)
    async with nothing_lost():
        machines = Machines(engine)

        async def begin() -> Work:
            await machines.images.resolve(None)
            return created()

        async def created() -> None:
            machine = await machines.create(setup="true")
            await machine.remove()

        assert await cancel_at_every_await(begin) > 4
        await machines.aclose()
    assert things_on(engine) <= before
