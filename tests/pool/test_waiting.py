"""Machines that wait in a pool: the dead, the silent and the old are never given."""

from __future__ import annotations

from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    CapacityError,
    ProviderUnavailableError,
)
from tests.pool.pools import claimed_id, living, memory, until


async def test_a_dead_machine_is_replaced_and_never_given() -> None:
    provider = memory()
    async with sk.Pool(provider, size=2) as pool:
        await pool.filled()
        dead = await living(provider)
        for machine in dead:
            await (await provider.attach(machine)).destroy()
        ids = {await claimed_id(pool) for _ in range(4)}
        assert not ids & dead
        await pool.filled()
    assert await living(provider) == set()


async def test_a_machine_that_dies_while_it_waits_is_replaced_without_a_claim() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1, lease_s=1) as pool:
        await pool.filled()
        [dead] = await living(provider)
        await (await provider.attach(dead)).destroy()
        await until(lambda: provider.creates == 2)
        await pool.filled()
        assert dead not in await living(provider)


def _swallow(connection: object, frame: object) -> None:
    return


async def test_a_machine_that_does_not_answer_is_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandboxkit.pool.machine._ANSWER_S", 0.2)
    provider = memory()
    async with sk.Pool(provider, size=1) as pool:
        await pool.filled()
        [silent] = await living(provider)
        handle: Any = await provider.attach(silent)
        handle.guest.on_frame = _swallow  # frozen: it takes all and answers nothing
        async with pool.claim() as sandbox:
            assert sandbox.id != silent
        await until(lambda: pool.claimed == 0)
        assert silent not in await living(provider)


async def test_an_old_machine_is_replaced_before_it_goes() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1, max_age_s=0.4) as pool:
        await pool.filled()
        [old] = await living(provider)
        await until(lambda: provider.creates == 2)
        await until(lambda: not provider.lives(old))
        assert pool.ready == 1  # it was never without one
        assert provider.creates == 2


async def test_an_old_machine_is_never_given_even_where_there_is_no_other() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1, max_age_s=0.1) as pool:
        await pool.filled()
        [old] = await living(provider)
        provider.refuse(ProviderUnavailableError("away"), times=1000)
        await until(lambda: not provider.lives(old))
        assert pool.ready == 0
        await until(lambda: pool.failures > 0)
        with pytest.raises(CapacityError, match="the last creation failed with away") as caught:
            await pool.claim(wait_s=0.01)
        assert isinstance(caught.value.__cause__, ProviderUnavailableError)
