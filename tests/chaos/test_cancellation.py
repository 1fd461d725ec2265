"""Cancelled at random moments, again and again: nothing left, everything else still works."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.providers.registry import providers
from sandboxkit.spec import OWNER_LABEL
from tests.leaks import OWNER

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(600)]

MARK = "cancelled-work"


async def cancelled_after(work: Coroutine[Any, Any, object], seconds: float) -> bool:
    """Run `work` and cancel it; whether that came before its end."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(seconds)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=60)
    assert done, "the cancelled work did not end"
    if task.cancelled():
        return True
    task.result()
    return False


async def living() -> set[str]:
    provider = providers.make("docker")
    try:
        return {info.id async for info in provider.list({OWNER_LABEL: OWNER})}
    finally:
        await provider.aclose()


async def opened_and_closed() -> None:
    async with sk.Sandbox.create("docker") as sandbox:
        await sandbox.exec(["true"])


@pytest.mark.parametrize("rounds", [15, pytest.param(100, marks=pytest.mark.slow)])
async def test_a_cancelled_create_leaves_nothing(rounds: int) -> None:
    chance = random.Random(rounds)
    cut = [
        await cancelled_after(opened_and_closed(), chance.uniform(0, 0.5)) for _ in range(rounds)
    ]
    assert any(cut)
    assert await living() == set()


@pytest.mark.parametrize("rounds", [40, pytest.param(200, marks=pytest.mark.slow)])
async def test_a_cancelled_exec_ends_its_tree_and_the_sandbox_answers(rounds: int) -> None:
    chance = random.Random(rounds)
    async with sk.Sandbox.create("docker") as sandbox:
        for _ in range(rounds):
            script = f"setsid sleep 321 & sleep 322; echo {MARK}"
            await cancelled_after(sandbox.sh(script), chance.uniform(0, 0.02))
            assert (await sandbox.exec(["echo", "alive"])).text == "alive\n"
        processes = (await sandbox.exec(["ps", "-eo", "args"])).text
        assert "sleep 32" not in processes


@pytest.mark.parametrize("rounds", [30, pytest.param(200, marks=pytest.mark.slow)])
async def test_cancelled_file_operations_leave_no_process_and_no_half_file(rounds: int) -> None:
    chance = random.Random(rounds)
    content = bytes(2_000_000)
    async with sk.Sandbox.create("docker") as sandbox:
        for _ in range(rounds):
            await cancelled_after(sandbox.files.write("big", content), chance.uniform(0, 0.02))
            if await sandbox.files.exists("big"):
                assert (await sandbox.files.stat("big")).size == len(content)
        async with asyncio.timeout(10):  # the last one may just be tidying up
            while {entry.name for entry in await sandbox.files.list(".")} - {"big"}:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("rounds", [10, pytest.param(50, marks=pytest.mark.slow)])
async def test_a_cancelled_close_still_removes_the_sandbox(rounds: int) -> None:
    chance = random.Random(rounds)
    for _ in range(rounds):
        sandbox = await sk.Sandbox.create("docker")
        running = asyncio.ensure_future(sandbox.exec(["sleep", "60"]))
        await asyncio.sleep(0.01)
        await cancelled_after(sandbox.aclose(), chance.uniform(0, 0.1))
        await sandbox.aclose()
        with pytest.raises(sk.SandboxError):
            await running
    assert await living() == set()
