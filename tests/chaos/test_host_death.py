"""The host is killed: its sandbox is gone within the lease, with nobody called."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from sandboxkit.providers.registry import providers
from sandboxkit.spec import OWNER_LABEL
from tests.leaks import OWNER

pytestmark = pytest.mark.usefixtures("engine")

LEASE_S = 3.0
SLACK_S = 20.0  # the engine's own time to remove a container, on a busy machine

HOST = f"""
import asyncio
import sandboxkit as sk

async def main():
    sandbox = await sk.Sandbox.create("docker", lease_s={LEASE_S})
    await sandbox.spawn(["sleep", "600"], detach=DETACH)
    print(sandbox.id, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def ids() -> set[str]:
    provider = providers.make("docker")
    try:
        return {info.id async for info in provider.list({OWNER_LABEL: OWNER})}
    finally:
        await provider.aclose()


@pytest.mark.parametrize("detach", [False, True])
async def test_a_killed_host_leaves_no_sandbox(detach: bool) -> None:
    script = HOST.replace("DETACH", str(detach))
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert host.stdout is not None
    sandbox_id = (await host.stdout.readline()).decode().strip()
    assert sandbox_id in await ids()
    host.send_signal(signal.SIGKILL)
    await host.wait()
    async with asyncio.timeout(LEASE_S + SLACK_S):
        while sandbox_id in await ids():
            await asyncio.sleep(0.2)


async def test_a_host_killed_before_it_has_sent_the_guest_leaves_no_sandbox() -> None:
    script = HOST.replace("DETACH", "False").replace(
        "async def main():",
        "import os\n"
        "import sandboxkit.channel.greeting as greeting\n"
        "greeting.bundle = lambda **_: os.kill(os.getpid(), 9)\n"
        "async def main():",
    )
    host = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await host.wait() == -signal.SIGKILL
    async with asyncio.timeout(SLACK_S):
        while await ids():
            await asyncio.sleep(0.2)


ENDING = """
import asyncio
import sandboxkit as sk

async def work(started):
    async with sk.Sandbox.create("docker") as sandbox:
        process = await sandbox.spawn(["sleep", "600"])
        started.set()
        try:
            await process.wait()
        finally:
            await process.kill()

async def main():
    started = asyncio.Event()
    working = asyncio.create_task(work(started))
    await started.wait()
    raise RuntimeError("something else")

asyncio.run(main())
"""


async def test_a_program_that_ends_in_the_middle_ends_soon() -> None:
    """`asyncio.run` cancels every task then, and those that serve the connection first."""
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ENDING, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(SLACK_S):
            _, told = await host.communicate()
    finally:
        if host.returncode is None:
            host.kill()
            await host.wait()
    assert "RuntimeError: something else" in told.decode()
    assert await ids() == set()
