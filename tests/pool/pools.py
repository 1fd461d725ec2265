"""What the tests of pools share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import sandboxkit as sk
from sandboxkit.providers.base import Capabilities
from sandboxkit.testing import Answer, MemoryProvider


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


async def claimed_id(pool: sk.Pool) -> str:
    async with pool.claim() as sandbox:
        return sandbox.id
