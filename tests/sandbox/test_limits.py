"""What an account may do: places are counted, creations paced, refusals waited for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sandboxkit.errors import CapacityError, OperationTimeoutError, ProviderUnavailableError
from sandboxkit.limits import Bucket
from sandboxkit.places import Place, Places
from sandboxkit.providers.base import Capabilities
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import MemoryProvider

LATER = 3600.0


def memory(**limits: Any) -> MemoryProvider:
    can = Capabilities(isolation="none", network=frozenset(), **limits)
    return MemoryProvider(capabilities=can)


async def living(provider: MemoryProvider) -> int:
    return len([info async for info in provider.list({})])


def in_another_thread(work: Callable[[], Coroutine[Any, Any, None]]) -> threading.Thread:
    """A thread that runs something on an event loop of its own."""
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    return thread


# how many at once


async def test_no_more_live_at_once_than_the_account_may_have() -> None:
    provider = memory(concurrent=3)
    counts: list[int] = []

    async def use() -> None:
        async with Sandbox.create(provider):
            counts.append(await living(provider))
            await asyncio.sleep(0)

    await asyncio.gather(*(use() for _ in range(20)))
    assert len(counts) == 20
    assert max(counts) == 3


async def test_no_place_in_time_says_so_and_asks_nobody() -> None:
    provider = memory(concurrent=1)
    async with Sandbox.create(provider):
        with pytest.raises(CapacityError, match="memory lets one account have 1 sandboxes"):
            await Sandbox.create(provider, wait_s=0.01)
        assert provider.creates == 1
    async with Sandbox.create(provider, wait_s=0):
        assert provider.creates == 2


async def test_whoever_ends_lets_go_or_fails_gives_its_place_back() -> None:
    provider = memory(concurrent=1)
    await (await Sandbox.create(provider, wait_s=0)).destroy()
    sandbox = await Sandbox.create(provider, wait_s=0)
    await sandbox.detach(keep_s=60)
    provider.refuse(ProviderUnavailableError("away"))
    with pytest.raises(ProviderUnavailableError):
        await Sandbox.create(provider, wait_s=0)
    async with Sandbox.create(provider, wait_s=0):
        attached = await Sandbox.attach(provider, sandbox.id)  # which asks for no place
        await attached.destroy()


async def test_a_sandbox_that_was_ended_from_outside_gives_its_place_back() -> None:
    provider = memory(concurrent=1)
    async with Sandbox.create(provider) as ended:
        await (await Sandbox.attach(provider, ended.id)).destroy()
        async with Sandbox.create(provider, wait_s=LATER):
            pass


async def test_objects_of_one_account_share_its_places() -> None:
    class Service(MemoryProvider):
        name = "limited-service"

        def account(self) -> str:
            return "one key"

    can = Capabilities(isolation="none", network=frozenset(), concurrent=1)
    async with Sandbox.create(Service(capabilities=can)):
        with pytest.raises(CapacityError):
            await Sandbox.create(Service(capabilities=can), wait_s=0)
        async with Sandbox.create(memory(concurrent=1), wait_s=0):
            pass


async def test_places_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    places = Places(1)
    first = await places.take(0)
    order: list[int] = []

    async def wait(number: int) -> None:
        place = await places.take(LATER)
        order.append(number)
        place.release()

    waiting = [asyncio.create_task(wait(number)) for number in range(5)]
    await asyncio.sleep(0)  # all have asked
    first.release()
    first.release()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]


async def test_a_place_goes_on_when_who_waited_for_it_is_cancelled() -> None:
    places = Places(1)
    first = await places.take(0)
    queued, given, last = [asyncio.create_task(places.take(LATER)) for _ in range(3)]
    await asyncio.sleep(0)
    queued.cancel()
    await asyncio.sleep(0)
    first.release()
    given.cancel()  # it has the place, and does not know it yet
    with pytest.raises(asyncio.CancelledError):
        await given
    (await last).release()
    await places.take(0)


async def test_a_place_that_was_forgotten_is_free() -> None:
    places = Places(1)
    forgotten = await places.take(0)
    with pytest.raises(TimeoutError):
        await places.take(0)
    waiting = asyncio.create_task(places.take(LATER))
    await asyncio.sleep(0)
    del forgotten
    gc.collect()
    later = asyncio.create_task(places.take(LATER))  # whose asking shows it
    (await waiting).release()
    await later


async def test_a_place_is_handed_from_one_event_loop_to_another() -> None:
    places = Places(1)
    mine = await places.take(0)
    asked = threading.Event()

    async def elsewhere() -> None:
        taking = asyncio.create_task(places.take(LATER))
        await asyncio.sleep(0)
        asked.set()
        (await taking).release()

    thread = in_another_thread(elsewhere)
    await asyncio.to_thread(asked.wait, 20)
    mine.release()
    (await places.take(20)).release()
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()


async def test_who_waited_on_a_loop_that_was_closed_keeps_nobody() -> None:
    places = Places(1)
    mine = await places.take(0)

    def abandon() -> Coroutine[Any, Any, Place]:
        loop = asyncio.new_event_loop()
        taking = places.take(LATER)
        loop.run_until_complete(_start(taking))
        loop.close()
        return taking

    taking = await asyncio.to_thread(abandon)
    mine.release()
    await places.take(0)
    with contextlib.suppress(RuntimeError):
        taking.close()


async def _start(taking: Coroutine[Any, Any, Place]) -> None:
    """Take the first step of a coroutine, and leave it at that."""
    taking.send(None)


@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_at_any_moment_nothing_is_lost(seed: int) -> None:
    provider = memory(concurrent=2, creates_per_s=1000.0)
    chance = random.Random(seed)

    async def use() -> None:
        async with Sandbox.create(provider) as sandbox:
            await sandbox.files.write("x", b"y")

    tasks = [asyncio.create_task(use()) for _ in range(40)]
    for task in chance.sample(tasks, 30):
        await asyncio.sleep(chance.uniform(0, 0.003))
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(each is None or isinstance(each, asyncio.CancelledError) for each in done)
    assert await living(provider) == 0
    async with Sandbox.create(provider, wait_s=1), Sandbox.create(provider, wait_s=1):
        with pytest.raises(CapacityError, match="2 sandboxes at once"):
            await Sandbox.create(provider, wait_s=0)


# how fast


@pytest.mark.parametrize("per_s", [0.5, 1.0, 5.0, 7.3])
def test_no_more_are_created_than_a_burst_and_the_rate(per_s: float) -> None:
    bucket = Bucket()
    chance = random.Random(4)
    now, at = 100.0, list[float]()
    while len(at) < 200:
        pause = bucket.take(now, per_s)
        if not pause:
            at.append(now)
        now += pause or chance.choice([0.0, 0.0, 0.01, 3.0])
    for i, first in enumerate(at):
        for k, last in enumerate(at[i:]):
            assert k + 1 <= max(1.0, per_s) + (last - first) * per_s + 1e-3
    burst = sum(moment == at[0] for moment in at)
    assert burst <= max(1, per_s)


async def test_creations_wait_for_their_turn() -> None:
    provider = memory(creates_per_s=20.0)
    made = await asyncio.gather(*(Sandbox.create(provider) for _ in range(25)))
    assert provider.creates == 25
    await asyncio.gather(*(sandbox.destroy() for sandbox in made))


async def test_a_turn_that_comes_too_late_is_not_waited_for() -> None:
    provider = memory(creates_per_s=0.001)
    async with Sandbox.create(provider):
        with pytest.raises(CapacityError, match=r"0\.001 sandboxes a second") as caught:
            await Sandbox.create(provider, wait_s=60)
    assert caught.value.retry_after_s == pytest.approx(1000, rel=0.1)
    assert provider.creates == 1


# refusals


async def test_a_refused_creation_is_asked_for_again() -> None:
    provider = memory()
    provider.refuse(CapacityError("too many", retry_after_s=0.01), times=3)
    async with Sandbox.create(provider):
        assert provider.creates == 4
    provider.refuse(CapacityError("full"))
    async with Sandbox.create(provider):
        assert provider.creates == 6


async def test_a_pause_that_is_too_long_is_not_waited_for_by_anyone_of_the_account() -> None:
    provider = memory()
    provider.refuse(CapacityError("come back in an hour", retry_after_s=LATER))
    with pytest.raises(CapacityError, match="come back in an hour"):
        await Sandbox.create(provider)
    with pytest.raises(CapacityError, match="asked to wait") as caught:
        await Sandbox.create(provider)
    assert caught.value.retry_after_s == pytest.approx(LATER, rel=0.1)
    assert provider.creates == 1


async def test_a_refusal_is_waited_for_no_longer_than_allowed() -> None:
    provider = memory()
    provider.refuse(CapacityError("full", retry_after_s=0.05), times=1000)
    with pytest.raises(CapacityError, match="full") as caught:
        await Sandbox.create(provider, wait_s=0.3)
    assert 1 < provider.creates <= 6
    assert any("has asked" in note for note in caught.value.__notes__)


async def test_a_refusal_that_waiting_does_not_change_is_told_at_once() -> None:
    provider = memory()
    provider.refuse(CapacityError("the disk is full", retryable=False))
    with pytest.raises(CapacityError):
        await Sandbox.create(provider)
    assert provider.creates == 1


@pytest.mark.parametrize("kind", [OperationTimeoutError, ProviderUnavailableError])
async def test_what_may_have_happened_is_not_done_again(kind: type[Exception]) -> None:
    provider = memory()
    provider.refuse(kind("no answer"), made=True)  # type: ignore[arg-type]
    with pytest.raises(kind):
        await Sandbox.create(provider)
    assert provider.creates == 1
    assert await living(provider) == 0
