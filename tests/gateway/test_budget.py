"""Budgets under concurrency: a limit is passed by one request at the most."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sandboxkit.errors import BudgetExceededError, InvalidSpecError
from sandboxkit.gateway.model.budget import Budget, Hold, Worst


async def waits(task: asyncio.Future[Hold]) -> bool:
    """Whether it still waits when all that could run has run."""
    for _ in range(20):
        await asyncio.sleep(0)
    return not task.done()


async def test_the_last_dollar_is_passed_by_one_request_only() -> None:
    budget = Budget(usd=1.0)
    first = await budget.hold(Worst(usd=5.0))  # alone, it may go out
    second = asyncio.ensure_future(budget.hold(Worst(usd=0.1)))
    assert await waits(second)
    first.end(usd=1.2, tokens=0)
    with pytest.raises(BudgetExceededError) as caught:
        await second
    assert (caught.value.limit, caught.value.allowed) == ("usd", 1.0)
    assert caught.value.spent["usd"] == pytest.approx(1.2)
    assert budget.spent["requests"] == 1


async def test_what_fits_goes_out_at_once() -> None:
    budget = Budget(tokens=100)
    holds = [await budget.hold(Worst(tokens=30)) for _ in range(3)]
    fourth = asyncio.ensure_future(budget.hold(Worst(tokens=30)))
    assert await waits(fourth)
    holds[0].end(usd=0, tokens=5)  # it took less than it might have
    (await fourth).end(usd=0, tokens=1)
    for hold in (*holds, *holds):  # a second end counts nothing
        hold.end(usd=0, tokens=5)
    assert budget.spent["tokens"] == 16


async def test_a_limit_that_is_raised_lets_the_waiting_go() -> None:
    budget = Budget(tokens=100)
    await budget.hold(Worst(tokens=90))
    waiting = asyncio.ensure_future(budget.hold(Worst(tokens=90)))
    assert await waits(waiting)
    budget.allow(tokens=1000)
    await waiting


async def test_who_waits_can_leave() -> None:
    budget = Budget(tokens=100)
    first = await budget.hold(Worst(tokens=90))
    waiting = asyncio.ensure_future(budget.hold(Worst(tokens=90)))
    assert await waits(waiting)
    waiting.cancel()
    await asyncio.wait({waiting})
    first.cancel()
    assert budget.spent["requests"] == 0
    (await budget.hold(Worst(tokens=90))).end(usd=0, tokens=1)
    assert budget.spent["requests"] == 1


async def test_loops_in_other_threads_share_it() -> None:
    budget = Budget(tokens=100)
    first = await budget.hold(Worst(tokens=90))
    started, ended = threading.Event(), threading.Event()

    async def other() -> None:
        started.set()
        (await budget.hold(Worst(tokens=90))).end(usd=0, tokens=1)
        ended.set()

    thread = threading.Thread(target=asyncio.run, args=(other(),))
    thread.start()
    await asyncio.to_thread(started.wait)
    assert not ended.is_set()
    first.end(usd=0, tokens=1)
    await asyncio.to_thread(thread.join, 20)
    assert ended.is_set()


async def test_dollars_need_a_price() -> None:
    with pytest.raises(BudgetExceededError, match="price") as caught:
        await Budget(usd=1).hold(Worst(usd=None))
    assert caught.value.code == "no_price"
    await Budget(tokens=1).hold(Worst(usd=None))


@pytest.mark.parametrize("limit", [-1.0, float("inf"), float("nan")])
def test_limits_are_numbers(limit: float) -> None:
    with pytest.raises(InvalidSpecError):
        Budget(usd=limit)
    with pytest.raises(InvalidSpecError, match="wall_s"):
        Budget().allow(euros=1)
