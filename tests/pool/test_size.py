"""A pool grows, shrinks, is drained and closed: whenever that is, nothing is left."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    CapacityError,
    InvalidSpecError,
    OperationTimeoutError,
    ProviderNotFoundError,
    SandboxClosedError,
    UnsupportedError,
)
from sandboxkit.testing import MemoryProvider
from tests.pool.pools import claimed_id, living, memory, until


async def test_it_grows_and_shrinks() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1) as pool:
        pool.resize(5)
        await pool.filled()
        assert len(await living(provider)) == pool.ready == pool.size == 5
        pool.resize(2)
        assert pool.ready == 2
        while len(await living(provider)) > 2:
            await asyncio.sleep(0)
        pool.resize(0)
        async with pool.claim():  # made for it
            assert pool.ready == 0


async def test_drained_it_hands_out_nothing_and_waits_for_the_owners() -> None:
    provider = memory()
    async with sk.Pool(provider, size=2) as pool:
        mine = await pool.claim()
        await pool.filled()
        with pytest.raises(OperationTimeoutError, match="1 machines of the pool still had owners"):
            await pool.drain(timeout_s=0.01)
        assert await living(provider) == {mine.id}
        with pytest.raises(SandboxClosedError, match="drained"):
            await pool.claim()
        with pytest.raises(SandboxClosedError, match="drained"):
            pool.resize(3)
        draining = asyncio.create_task(pool.drain())
        await asyncio.sleep(0.01)
        assert not draining.done()
        assert (await mine.exec(["true"])).exit_code == 0
        await mine.destroy()
        await draining
    assert await living(provider) == set()


async def test_who_waits_is_refused_when_it_is_drained() -> None:
    provider = memory(concurrent=1)
    async with sk.Pool(provider, size=0) as pool, pool.claim():
        waiting = asyncio.create_task(claimed_id(pool))
        filled = asyncio.create_task(pool.filled())
        await asyncio.sleep(0.01)
        with pytest.raises(OperationTimeoutError):
            await pool.drain(timeout_s=0.01)
        with pytest.raises(SandboxClosedError):
            await waiting
        await filled


async def test_leaving_destroys_all_also_what_is_claimed() -> None:
    provider = memory()
    async with sk.Pool(provider, size=3) as pool:
        mine = await pool.claim()
        await pool.filled()
    assert await living(provider) == set()
    assert (pool.ready, pool.claimed) == (0, 0)
    with pytest.raises(SandboxClosedError):
        await mine.exec(["true"])
    with pytest.raises(SandboxClosedError, match="closed"):
        await pool.claim()
    await pool.aclose()


async def test_a_detached_machine_outlives_the_pool() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1) as pool:
        mine = await pool.claim()
        await mine.detach(keep_s=60)
        await until(lambda: pool.claimed == 0)
    assert await living(provider) == {mine.id}
    await (await sk.Sandbox.attach(provider, mine.id)).destroy()


@pytest.mark.parametrize("seed", range(30))
async def test_leaving_at_any_moment_leaves_nothing(seed: int) -> None:
    chance = random.Random(seed)
    provider = memory()

    async def use() -> None:
        async with sk.Pool(provider, size=3) as pool:
            claims = [asyncio.create_task(claimed_id(pool)) for _ in range(chance.randrange(8))]
            await asyncio.gather(*claims)
            await asyncio.sleep(chance.random() / 20)

    task = asyncio.create_task(use())
    for _ in range(chance.randrange(60)):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert await living(provider) == set()


async def test_closing_and_draining_at_once() -> None:
    provider = memory()
    async with sk.Pool(provider, size=3) as pool:
        await pool.filled()
        mine = await pool.claim()
        draining = asyncio.create_task(pool.drain())
        await asyncio.sleep(0)
        await pool.aclose()
        await draining
        assert mine.ended.is_set()
    assert await living(provider) == set()


async def test_a_pool_must_be_entered_and_only_once() -> None:
    provider = memory()
    pool = sk.Pool(provider, size=1)
    with pytest.raises(SandboxClosedError, match="is not open"):
        await pool.claim()
    async with pool:
        pass
    with pytest.raises(SandboxClosedError, match="entered once"):
        async with pool:
            pass


async def test_what_is_wrong_is_said_before_a_machine_is_made() -> None:
    provider = memory()
    several: list[dict[str, Any]] = [{"size": -1}, {"size": 1, "max_age_s": 0}, {"size": 1, "c": 2}]
    for wrong in several:
        with pytest.raises(InvalidSpecError):
            sk.Pool(provider, **wrong)
    with pytest.raises(InvalidSpecError, match="name at least one"):
        sk.Pool([], size=1)
    with pytest.raises(UnsupportedError, match="cpu"):
        async with sk.Pool(provider, size=1, cpu=2):
            pass
    with pytest.raises(ProviderNotFoundError):
        async with sk.Pool("no-such", size=1):
            pass
    assert provider.creates == 0


async def test_a_list_of_backends() -> None:
    full, other = memory(), memory()
    full.refuse(CapacityError("full"), times=1000)
    async with sk.Pool([full, other], size=1) as pool:
        await pool.filled()
        assert len(await living(other)) == 1
    assert await living(other) == set()


async def test_the_context_of_who_claims_is_not_that_of_the_next_machine() -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    class Watched(MemoryProvider):
        async def create(self, spec: sk.SandboxSpec) -> sk.SandboxHandle:
            seen.append(variable.get())
            return await super().create(spec)

    async with sk.Pool(Watched(), size=1) as pool:
        await pool.filled()
        variable.set("claimer's")
        async with pool.claim():
            await pool.filled()
    assert seen == ["none", "none"]


async def test_nothing_is_warned_of_when_a_claimed_machine_is_forgotten() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1) as pool:
        await pool.claim()
        gc.collect()
    assert await living(provider) == set()
