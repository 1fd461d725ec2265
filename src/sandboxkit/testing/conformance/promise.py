"""What makes a function of the kit a promise: a name, a bound on its time, a loop."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

import anyio
import pytest

from sandboxkit.errors import SandboxError

P = ParamSpec("P")

WITHIN_S = 60.0
"""Seconds after which a promise counts as broken: a sandbox that hangs is an answer too."""

_refusals: list[str] = []

PROMISES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {}
"""Every promise of the kit, by its name."""


def promise(test: Callable[P, Awaitable[None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Make a test a promise of the kit: its name says what, its docstring as a sentence."""

    @functools.wraps(test)
    async def bounded(*args: P.args, **kwargs: P.kwargs) -> None:
        with anyio.fail_after(WITHIN_S):
            await test(*args, **kwargs)

    name = test.__name__
    if name in PROMISES:
        raise ValueError(f"two promises of the conformance kit have the name {name}")
    # One loop for a module, because its tests share a sandbox.
    PROMISES[name] = pytest.mark.asyncio(loop_scope="module")(bounded)
    return bounded


def note_refusal(error: SandboxError) -> None:
    """Say that the promise is kept by a refusal, as it should be: the matrix tells so."""
    _refusals.append(error.message)


def take_refusals() -> list[str]:
    """What was noted since the last call."""
    taken = list(_refusals)
    _refusals.clear()
    return taken
