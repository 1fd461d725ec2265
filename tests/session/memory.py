"""A backend in memory for named sessions."""

from __future__ import annotations

from typing import Any

from sandboxkit.providers.base import Capabilities
from sandboxkit.testing import MemoryProvider

NAME = "site-builder"


def memory(**claims: Any) -> MemoryProvider:
    can = Capabilities(isolation="none", network=frozenset({"none", "open"}), **claims)
    return MemoryProvider(capabilities=can)


async def living(provider: MemoryProvider) -> set[str]:
    return {info.id async for info in provider.list({})}
