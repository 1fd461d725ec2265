"""Hosts killed at random moments: after their leases, the reaper leaves nothing of them."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest

import sandboxkit as sk
from sandboxkit.journal import journal
from sandboxkit.providers.registry import providers
from sandboxkit.spec import OWNER_LABEL
from tests.leaks import OWNER

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(900)]

LEASE_S = 2.0
SLACK_S = 90.0  # a guest that no host has greeted yet waits 60 s for one
HOST = f"""
import asyncio, sys
import sandboxkit as sk

async def main():
    print("begun", flush=True)
    while True:
        async with sk.Sandbox.create("docker", lease_s={LEASE_S}) as sandbox:
            await sandbox.exec(["true"])
            if sys.argv[1] == "pausing":
                await sandbox.pause()

asyncio.run(main())
"""


async def killed_after(seconds: float, how: str) -> None:
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, how, stdout=asyncio.subprocess.PIPE
    )
    assert host.stdout is not None
    await host.stdout.readline()
    await asyncio.sleep(seconds)
    host.kill()
    await host.wait()


async def left() -> set[str]:
    provider = providers.make("docker")
    try:
        return {info.id async for info in provider.list({OWNER_LABEL: OWNER})}
    finally:
        await provider.aclose()


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.slow)])
async def test_hosts_killed_at_random_moments(rounds: int) -> None:
    chance = random.Random(rounds)
    async with sk.Sandbox.create("docker") as living:
        for n in range(0, rounds, 2):
            await asyncio.gather(
                killed_after(chance.uniform(0, 2), "working"),
                killed_after(chance.uniform(0, 2), "pausing" if n % 4 else "working"),
            )
            assert all(one.action != "failed" for one in await sk.reap("docker"))
        said: list[sk.Reaped] = []
        deadline = asyncio.get_running_loop().time() + LEASE_S + SLACK_S
        while await left() != {living.id}:
            said = await sk.reap("docker", paused=True)
            why = [(one.info.id, one.info.state, one.action, one.why) for one in said]
            assert asyncio.get_running_loop().time() < deadline, why
            await asyncio.sleep(0.2)
        assert (await living.exec(["true"])).exit_code == 0
        held = [row for row in (await journal().rows()).values() if row.holds and not row.ended]
        alive = [hold for row in held for hold in row.holds if hold.alive]
        assert len(alive) == 1
    assert await left() == set()
