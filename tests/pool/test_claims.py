"""Machines of a pool are claimed, each once, and have what their owner gives."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    CapacityError,
    ConnectionLostError,
    InvalidSpecError,
    UnsupportedError,
)
from sandboxkit.testing.memory.guest import Guest
from tests.pool.pools import claimed_id, living, memory, until


async def test_a_claimed_machine_works_and_ends_with_its_block() -> None:
    provider = memory()
    async with sk.Pool(provider, size=2) as pool:
        await pool.filled()
        assert (pool.ready, pool.claimed) == (2, 0)
        waiting = await living(provider)
        async with pool.claim() as sandbox:
            assert sandbox.id in waiting  # it was there before
            assert pool.claimed == 1
            assert (await sandbox.exec(["true"])).exit_code == 0
        assert sandbox.id not in await living(provider)
        await until(lambda: (pool.ready, pool.claimed) == (2, 0))
        assert provider.creates == 3
    assert await living(provider) == set()


@pytest.mark.parametrize("seed", range(20))
async def test_a_hundred_claims_on_ten_machines_and_none_is_given_twice(seed: int) -> None:
    chance = random.Random(seed)
    provider = memory()
    owners: list[str] = []

    async def claim(pool: sk.Pool) -> None:
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        async with pool.claim() as sandbox:
            owners.append(sandbox.id)
            assert not await sandbox.files.exists("mine")  # left by another owner
            await sandbox.files.write("mine", "x")

    async with sk.Pool(provider, size=10) as pool:
        await asyncio.gather(*(claim(pool) for _ in range(100)))
        assert len(set(owners)) == len(owners) == 100
    assert await living(provider) == set()


async def test_a_hundred_claims_that_are_cancelled_at_random() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        provider = memory()
        owners: list[str] = []

        async def claim(pool: sk.Pool, owners: list[str] = owners) -> None:
            async with pool.claim(env={"A": "1"}) as sandbox:
                owners.append(sandbox.id)
                await asyncio.sleep(0)

        async with sk.Pool(provider, size=10) as pool:
            tasks = [asyncio.create_task(claim(pool)) for _ in range(100)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0)
                chance.choice(tasks).cancel()
            assert len(set(owners)) == len(owners)
            await pool.filled()
            async with pool.claim(wait_s=5) as sandbox:
                assert sandbox.id not in owners
            await until(lambda pool=pool: pool.claimed == 0)  # type: ignore[misc]
        assert await living(provider) == set()


async def test_a_machine_that_came_for_a_cancelled_claim_goes_to_the_next() -> None:
    provider = memory()
    async with sk.Pool(provider, size=0) as pool:
        gone, next_one = (asyncio.create_task(claimed_id(pool)) for _ in range(2))
        while not pool.claimed:  # given, but the claim does not know it yet
            await asyncio.sleep(0)
        gone.cancel()
        async with asyncio.timeout(20):
            assert await next_one
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert await living(provider) == set()


async def test_what_an_owner_gives_is_its_own() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1, env={"SHARED": "1", "OVER": "pool"}) as pool:
        files: dict[str, Any] = {"sub/a.txt": "text", "/tmp/b": b"\0bytes"}
        async with pool.claim(env={"MINE": "2", "OVER": "me"}, files=files) as one:
            env = (await one.exec(["env"])).text.splitlines()
            assert {"SHARED=1", "MINE=2", "OVER=me"} <= set(env)
            assert await one.files.read_text("sub/a.txt") == "text"
            assert await one.files.read("/tmp/b") == b"\0bytes"
            async with sk.Sandbox.attach(provider, one.id) as same:  # whichever host asks
                assert "MINE=2" in (await same.exec(["env"])).text
        async with pool.claim() as other:
            env = (await other.exec(["env"])).text.splitlines()
            assert {"SHARED=1", "OVER=pool"} <= set(env)
            assert not [line for line in env if line.startswith("MINE")]
            assert not await other.files.exists("sub/a.txt")


async def test_the_environment_of_a_claim_survives_a_cut_connection() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1) as pool, pool.claim(env={"MINE": "2"}) as sandbox:
        provider.cut(sandbox.id)
        assert "MINE=2" in (await sandbox.exec(["env"])).text


async def test_the_environment_of_a_claim_is_given_to_a_guest_that_had_to_start_again() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1, env={"SHARED": "1"}) as pool:
        async with pool.claim(env={"MINE": "2"}) as sandbox:
            handle: Any = await provider.attach(sandbox.id)
            killed = handle.guest
            handle.guest = Guest(sandbox.id, killed._files, killed._respond)
            killed.cut()
            with contextlib.suppress(ConnectionLostError):  # asked before the loss was noticed
                await sandbox.exec(["true"])
            assert {"SHARED=1", "MINE=2"} <= set((await sandbox.exec(["env"])).text.splitlines())


async def test_files_of_this_machine_are_uploaded(tmp_path: Any) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one").write_text("1")
    provider = memory()
    async with (
        sk.Pool(provider, size=1) as pool,
        pool.claim(files={"f": tmp_path / "below" / "one", "tree": tmp_path}) as sandbox,
    ):
        assert await sandbox.files.read_text("f") == "1"
        assert await sandbox.files.read_text("tree/below/one") == "1"


async def test_a_claim_that_cannot_be_takes_no_machine() -> None:
    provider = memory()
    secret = sk.Secret("TOKEN", "v", hosts=["example.com"])
    async with sk.Pool(provider, size=1, network="none") as pool:
        await pool.filled()
        ready = await living(provider)
        with pytest.raises(InvalidSpecError, match="must not be empty or hold '='"):
            pool.claim(env={"A=B": ""})
        with pytest.raises(InvalidSpecError, match="no secret can reach"):
            pool.claim(secrets=[secret])
        with pytest.raises(UnsupportedError, match="cannot be changed from 'none' to 'open'"):
            pool.claim(network="open")
        assert await living(provider) == ready
        assert provider.creates == 1


async def test_a_machine_whose_files_cannot_be_written_is_ended() -> None:
    provider = memory()
    async with sk.Pool(provider, size=1) as pool:
        await pool.filled()
        [ready] = await living(provider)
        with pytest.raises(sk.SandboxError):
            await pool.claim(env={"SECRET": "1"}, files={"/tmp": "a directory"})
        await until(lambda: pool.claimed == 0)
        await pool.filled()
        assert ready not in await living(provider)


async def test_nobody_waits_longer_than_he_said() -> None:
    provider = memory()
    async with sk.Pool(provider, size=0) as pool:
        with pytest.raises(CapacityError, match="no machine of the pool became ready within 0 s"):
            await pool.claim(wait_s=0)
