"""The detector of long steps of an event loop."""

from __future__ import annotations

import asyncio
import time

from tests.busy import steps_longer_than

LIMIT_S = 0.05


def compute(seconds: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


async def computing(seconds: float) -> None:
    compute(seconds)


async def test_a_long_step_is_told_with_its_task() -> None:
    with steps_longer_than(LIMIT_S) as found:
        await asyncio.create_task(computing(2 * LIMIT_S))
    assert len(found) == 1
    assert found[0].seconds >= 2 * LIMIT_S
    assert computing.__name__ in found[0].what


async def test_waiting_and_other_threads_are_not_told() -> None:
    with steps_longer_than(LIMIT_S) as found:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(computing(LIMIT_S / 10))
            tasks.create_task(asyncio.to_thread(compute, 2 * LIMIT_S))
            tasks.create_task(asyncio.sleep(2 * LIMIT_S))
    assert not found
