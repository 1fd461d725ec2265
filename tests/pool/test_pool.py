"""A pool of machines: each claimed once, the dead never, and nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ConnectionLostError,
    ImageError,
    InvalidSpecError,
    OperationTimeoutError,
    ProviderNotFoundError,
    ProviderUnavailableError,
    SandboxClosedError,
    UnsupportedError,
)
from sandboxkit.providers.base import Capabilities
from sandboxkit.testing import Answer, MemoryProvider
from sandboxkit.testing.memory.guest import Guest

LATER = 3600.0


def memory(**limits: Any) -> MemoryProvider:
    can = Capabilities(isolation="none", network=frozenset({"none", "open"}), **limits)
    provider = MemoryProvider(capabilities=can)
    provider.on(["env"], lambda call: Answer(0, "\n".join(f"{k}={v}" for k, v in call.env.items())))
    provider.on(["true"])
    return provider


async def living(provider: MemoryProvider) -> set[str]:
    return {info.id async for info in provider.list({})}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


# claims


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
        gone, next_one = (asyncio.create_task(_id(pool)) for _ in range(2))
        while not pool.claimed:  # given, but the claim does not know it yet
            await asyncio.sleep(0)
        gone.cancel()
        async with asyncio.timeout(20):
            assert await next_one
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert await living(provider) == set()


async def _id(pool: sk.Pool) -> str:
    async with pool.claim() as sandbox:
        return sandbox.id


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


# machines that wait


async def test_a_dead_machine_is_replaced_and_never_given() -> None:
    provider = memory()
    async with sk.Pool(provider, size=2) as pool:
        await pool.filled()
        dead = await living(provider)
        for machine in dead:
            await (await provider.attach(machine)).destroy()
        ids = {await _id(pool) for _ in range(4)}
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


# the backend fails


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


# size, drain and close


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
        waiting = asyncio.create_task(_id(pool))
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
            claims = [asyncio.create_task(_id(pool)) for _ in range(chance.randrange(8))]
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
