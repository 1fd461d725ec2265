"""The end that nobody calls for: leases, life-times, idle time-outs."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from sandboxkit.errors import SandboxDiedError, SandboxError
from sandboxkit.testing.conformance.fixtures import Making
from sandboxkit.testing.conformance.inside import until
from sandboxkit.testing.conformance.promise import promise

_GONE_WITHIN_S = 30.0


async def _until_gone(create: Making) -> None:
    async def gone() -> bool:
        return not await create.alive()

    await until(gone, within_s=_GONE_WITHIN_S)


@promise
async def test_a_sandbox_without_its_host_ends_by_itself(create: Making) -> None:
    """When the host has died, the sandbox is gone within its lease, and nobody was called."""
    sandbox = await create(lease_s=1.0)
    line = create.wired.line(sandbox.id)
    line.down = True
    line.cut()
    await _until_gone(create)


@promise
async def test_a_host_that_lives_keeps_its_sandbox(create: Making) -> None:
    """The lease is renewed while the host lives, whatever it does or does not do."""
    sandbox = await create(lease_s=1.0)
    await asyncio.sleep(3.0)
    assert (await sandbox.exec(["true"])).exit_code == 0


@promise
async def test_a_sandbox_is_kept_for_as_long_as_asked_for(create: Making) -> None:
    """`detach(keep_s=...)` leaves it without a host for that long, and no longer."""
    sandbox = await create(lease_s=1.0)
    await sandbox.files.write("kept", "for later")
    await sandbox.detach(keep_s=4.0)
    await asyncio.sleep(2.0)
    again = await create.attach(sandbox.id)
    assert await again.files.read_text("kept") == "for later"
    await again.detach(keep_s=1.0)
    await _until_gone(create)


@promise
async def test_a_life_time_ends_a_sandbox_in_use(create: Making) -> None:
    """After `lifetime_s` it ends whatever runs, and what runs is told."""
    sandbox = await create(lifetime_s=2.0)
    with anyio.fail_after(_GONE_WITHIN_S), pytest.raises(SandboxError):
        await sandbox.exec(["sleep", "60"])
    await _until_gone(create)


@promise
async def test_an_idle_sandbox_ends(create: Making) -> None:
    """After `idle_timeout_s` without a running command it ends, and its living host is told."""
    sandbox = await create(idle_timeout_s=1.0)
    await _until_gone(create)
    with pytest.raises(SandboxDiedError) as told:
        await sandbox.exec(["true"])
    assert told.value.code == "idle"


@promise
async def test_a_silent_command_is_not_idleness(create: Making) -> None:
    """A command that runs counts as activity, also one that says nothing."""
    sandbox = await create(idle_timeout_s=1.0)
    result = await sandbox.sh("sleep 3; echo still here")
    assert result.text == "still here\n"
