"""Creates that are cancelled, or whose answer is lost: nothing is left at the cloud."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

import sandboxkit as sk
from sandboxkit.errors import ProviderUnavailableError
from tests.chaos.test_cancellation import cancelled_after
from tests.emulators.emulator import Emulator
from tests.emulators.faults import Fault

pytestmark = pytest.mark.timeout(600)


async def gone(cloud: Emulator) -> bool:
    """Whether the cloud has no sandbox any more, a moment from now at the latest."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while cloud.sandboxes():
                await asyncio.sleep(0.05)
    return not cloud.sandboxes()


def name_of(cloud: Emulator) -> str:
    return type(cloud).__name__.removesuffix("Emulator").lower()


async def opened_and_closed(provider: str) -> None:
    async with sk.Sandbox.create(provider) as sandbox:
        await sandbox.exec(["true"])


@pytest.mark.parametrize("rounds", [8, pytest.param(50, marks=pytest.mark.slow)])
async def test_a_cancelled_create_leaves_nothing(cloud: Emulator, rounds: int) -> None:
    chance = random.Random(rounds)
    began = asyncio.get_running_loop().time()
    await opened_and_closed(name_of(cloud))
    whole = asyncio.get_running_loop().time() - began
    cut = [
        await cancelled_after(opened_and_closed(name_of(cloud)), chance.uniform(0, whole))
        for _ in range(rounds)
    ]
    assert any(cut)
    assert await gone(cloud)


async def test_a_create_whose_answer_was_lost_leaves_nothing(cloud: Emulator) -> None:
    cloud.faults.add(Fault("create", "lose_answer", times=10))
    with contextlib.suppress(sk.SandboxError):  # or it is tried again, by its own key
        await opened_and_closed(name_of(cloud))
    cloud.faults.clear()
    assert await gone(cloud)


async def test_a_create_whose_answer_was_lost_once(cloud: Emulator) -> None:
    cloud.faults.add(Fault("create", "lose_answer"))
    with contextlib.suppress(sk.SandboxError):
        async with sk.Sandbox.create(name_of(cloud)) as sandbox:
            assert cloud.sandboxes() == {sandbox.id}
    assert await gone(cloud)


async def test_a_create_that_takes_too_long_to_refuse(cloud: Emulator) -> None:
    cloud.faults.add(Fault("create", "refuse", times=10, status=503))
    with pytest.raises(ProviderUnavailableError):
        await opened_and_closed(name_of(cloud))
    cloud.faults.clear()
    assert await gone(cloud)
