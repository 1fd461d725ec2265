"""`sandboxkit health`: how a living sandbox is."""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import UTC, datetime

from sandboxkit.cli.outcome import FAILED
from sandboxkit.cli.terminal import plain
from sandboxkit.health import Health, HealthPart
from sandboxkit.providers.registry import providers
from sandboxkit.sandbox import Sandbox


async def show_health(sandbox_id: str, *, provider: str, as_json: bool) -> int:
    """Print it, a part to a line; the exit code says whether all is well.

    A paused one is not woken: what the backend says of it is all there is.

    Args:
        sandbox_id: Its id.
        provider: The backend.
        as_json: Whether for programs.
    """
    async with contextlib.AsyncExitStack() as stack:
        backend = providers.make(provider)
        stack.push_async_callback(backend.aclose)
        handle = await backend.attach(sandbox_id)
        stack.push_async_callback(handle.aclose)
        if handle.info.state == "running":
            sandbox = await stack.enter_async_context(Sandbox.attach(backend, handle.info.id))
            health = await sandbox.health()
        else:
            state = handle.info.state
            part = HealthPart("paused" if state == "paused" else "ill", f"it is {state}")
            health = Health(datetime.now(UTC), part, HealthPart("absent", "it was not asked"))
    sys.stdout.write(_shown(health, as_json=as_json))
    return 0 if health.ok else FAILED


def _shown(health: Health, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(health.as_dict()) + "\n"
    return "".join(f"{name:<8} {plain(str(part))}\n" for name, part in health.parts.items())
