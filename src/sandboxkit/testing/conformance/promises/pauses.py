"""A sandbox that is frozen, and goes on; or the refusal of it."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from sandboxkit.channel.requests import PIPE
from sandboxkit.errors import UnsupportedError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.fixtures import Making
from sandboxkit.testing.conformance.promise import note_refusal, promise


async def _pauses(create: Making) -> bool:
    """Whether it is claimed; where it is not, that it is refused."""
    if create.wired.capabilities().pause:
        return True
    sandbox = await create()
    with pytest.raises(UnsupportedError) as caught:
        await sandbox.pause()
    note_refusal(caught.value)
    assert caught.value.provider == create.wired.name
    assert (await sandbox.exec(["true"])).exit_code == 0, "the refusal has harmed it"
    return False


@promise
async def test_a_paused_sandbox_goes_on_where_it_was(create: Making) -> None:
    """Processes, their memory and streams, and files are there again; nothing is lost."""
    if not await _pauses(create):
        return
    sandbox = await create()
    await sandbox.files.write("before", "kept")
    async with await sandbox.spawn(["cat"], stdin=PIPE) as process:
        await process.stdin.write(b"one\n")
        assert await process.stdout.receive() == b"one\n"
        states = [sandbox.info.state]
        await sandbox.pause()
        states.append(sandbox.info.state)
        await sandbox.resume()
        states.append(sandbox.info.state)
        assert states == ["running", "paused", "running"]
        await process.stdin.write(b"two\n")
        assert await process.stdout.receive() == b"two\n"
        await process.stdin.close()
        assert await process.wait() == 0
    assert await sandbox.files.read_text("before") == "kept"


@promise
async def test_nothing_runs_in_a_paused_sandbox(create: Making) -> None:
    """A process makes no progress until it goes on, and what is asked meanwhile waits."""
    if not await _pauses(create):
        return
    sandbox = await create()
    script = "while sleep 0.02; do echo tick; done"
    async with await sandbox.spawn(["sh", "-c", script]) as process:
        await process.stdout.receive()
        await sandbox.pause()
        asking = asyncio.create_task(sandbox.sh("echo answered"))
        with anyio.move_on_after(1.0):  # what had arrived before
            while True:
                await process.stdout.receive()
        with anyio.move_on_after(1.0) as silence:
            await process.stdout.receive()
        assert silence.cancelled_caught
        assert not asking.done()
        await sandbox.resume()
        assert (await asking).text == "answered\n"
        await process.stdout.receive()


@promise
async def test_a_paused_sandbox_outlives_its_lease(create: Making) -> None:
    """Time that it is frozen does not count against the lease of a living host."""
    if not await _pauses(create):
        return
    sandbox = await create(lease_s=1.0)
    await sandbox.pause()
    await asyncio.sleep(7.0)
    await sandbox.resume()
    assert (await sandbox.exec(["true"])).exit_code == 0


@promise
async def test_pausing_and_going_on_twice_is_success(create: Making) -> None:
    """To resume what runs does nothing; and a sandbox can be paused again and again."""
    if not await _pauses(create):
        return
    sandbox = await create()
    await sandbox.resume()
    for number in range(2):
        await sandbox.pause()
        await sandbox.resume()
        await sandbox.resume()
        assert (await sandbox.sh(f"echo {number}")).text == f"{number}\n"


@promise
async def test_a_paused_sandbox_is_found_taken_up_and_destroyed(create: Making) -> None:
    """`list` tells that it is paused; `attach` lets it go on; `destroy` ends a paused one."""
    if not await _pauses(create):
        return
    sandbox = await create()
    await sandbox.files.write("before", "kept")
    await sandbox.pause()
    (found,) = [info async for info in create.wired.list(create.label)]
    assert found.state == "paused"
    async with Sandbox.attach(create.wired, sandbox.id) as other:
        assert await other.files.read_text("before") == "kept"
    await sandbox.resume()
    await sandbox.pause()
    await sandbox.destroy()
    assert await create.alive() == []
