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


async def time_to_create(provider: str) -> float:
    began = asyncio.get_running_loop().time()
    async with sk.Sandbox.create(provider):
        return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("cuts", [8, pytest.param(50, marks=pytest.mark.slow)])
async def test_a_cancelled_create_leaves_nothing(cloud: Emulator, cuts: int) -> None:
    name, chance = name_of(cloud), random.Random(cuts)
    await opened_and_closed(name)  # the image is there from here on
    whole = await time_to_create(name)
    cut = 0
    for _ in range(4 * cuts):
        if await cancelled_after(opened_and_closed(name), chance.uniform(0, whole)):
            cut += 1
        else:
            whole *= 0.8  # the machine is quicker than when that was measured
        if cut == cuts:
            break
    assert cut == cuts
    assert await gone(cloud)


async def test_a_create_whose_answer_is_always_lost_leaves_nothing(cloud: Emulator) -> None:
    lost = cloud.faults.add(Fault("create", "lose_answer", times=10))
    with contextlib.suppress(sk.SandboxError):  # or it is taken up by its own key
        await opened_and_closed(name_of(cloud))
    assert lost.times < 10
    cloud.faults.clear()
    assert await gone(cloud)


async def test_a_create_whose_answer_is_lost_once_leaves_nothing_or_the_one(
    cloud: Emulator,
) -> None:
    lost = cloud.faults.add(Fault("create", "lose_answer"))
    try:
        async with sk.Sandbox.create(name_of(cloud)) as sandbox:
            assert cloud.sandboxes() == {sandbox.id}
            assert (await sandbox.exec(["echo", "owned"])).text == "owned\n"
    except sk.SandboxError:
        assert await gone(cloud)
    assert lost.times == 0
    assert await gone(cloud)


async def test_a_create_that_an_outage_refuses_leaves_nothing(cloud: Emulator) -> None:
    cloud.faults.add(Fault("create", "refuse", times=10, status=503))
    with pytest.raises(ProviderUnavailableError):
        await opened_and_closed(name_of(cloud))
    cloud.faults.clear()
    assert await gone(cloud)
