"""A backend that fails: told, asked again after a pause, and nothing left."""

from __future__ import annotations

import asyncio

import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    AuthenticationError,
    ImageError,
    ProviderUnavailableError,
)
from tests.pool.pools import living, memory, until

LATER = 3600.0


async def test_a_failing_backend_is_told_and_is_not_asked_without_a_pause() -> None:
    provider = memory()
    told: list[Exception] = []
    provider.refuse(ProviderUnavailableError("away"), times=1)
    async with sk.Pool(provider, size=1, on_failure=told.append) as pool:
        await until(lambda: pool.failures == 1)
        assert isinstance(pool.failure, ProviderUnavailableError)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert provider.creates == 1
        await pool.filled()  # after the pause
        assert "None" in f"{pool.failure}"
        assert (pool.failures, len(told), provider.creates) == (1, 1, 2)


async def test_claims_wait_while_a_failure_passes() -> None:
    provider = memory()
    provider.refuse(ProviderUnavailableError("away"), times=1)
    async with sk.Pool(provider, size=1) as pool:
        await until(lambda: pool.failures == 1)
        async with pool.claim():
            pass


async def test_one_machine_at_a_time_is_asked_for_after_a_failure() -> None:
    provider = memory()
    provider.refuse(ProviderUnavailableError("away"), times=5)
    async with sk.Pool(provider, size=4) as pool:
        await until(lambda: pool.failures == 4)
        assert provider.creates == 4
        await until(lambda: pool.failures == 5)
        assert provider.creates == 5


@pytest.mark.parametrize("error", [AuthenticationError("bad key"), ImageError("no such image")])
async def test_a_failure_that_lasts_is_told_to_who_waits(error: sk.SandboxError) -> None:
    provider = memory()
    provider.refuse(error, times=2)  # one for the stock, one for the claim
    async with sk.Pool(provider, size=1) as pool:
        with pytest.raises(type(error)):
            await pool.claim(wait_s=LATER)
        with pytest.raises(type(error)):
            await pool.claim(wait_s=LATER)  # at once, and without asking again
        with pytest.raises(type(error)):
            await pool.filled()
        assert provider.creates == 2
        await until(lambda: pool.ready == 1)  # the key was mended


async def test_on_failure_may_fail() -> None:
    def broken(error: Exception) -> None:
        raise ValueError("mine")

    provider = memory()
    provider.refuse(ProviderUnavailableError("away"), times=1)
    async with sk.Pool(provider, size=1, on_failure=broken) as pool:
        await pool.filled()


async def test_the_limits_of_the_account_hold() -> None:
    provider = memory(concurrent=3)
    async with sk.Pool(provider, size=2) as pool:
        async with pool.claim():
            await pool.filled()
            async with pool.claim():
                await until(lambda: pool.ready == 1)
                assert len(await living(provider)) == 3
        await pool.filled()
        assert len(await living(provider)) <= 3


async def test_a_failed_creation_leaves_nothing() -> None:
    provider = memory()
    provider.refuse(ProviderUnavailableError("the answer was lost"), made=True)
    async with sk.Pool(provider, size=1) as pool:
        await pool.filled()
        assert len(await living(provider)) == 1
    assert await living(provider) == set()
