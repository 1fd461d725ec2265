"""The guest's own children, which run as the sandbox's user: what if that user ends them?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from sandboxkit import PIPE, Sandbox
from sandboxkit.errors import ExecStartError

GUEST = "python3 -I -S"  # how a child of the guest looks in the list of processes
COUNT = f"pgrep -c -u $(id -u) -f '^{GUEST}'"


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    """A sandbox whose guest has its children: one for files, one that starts programs."""
    async with Sandbox.create("docker") as sandbox:
        await sandbox.files.write("small", b"small")
        with anyio.fail_after(20):
            while (await sandbox.sh(COUNT)).text.strip() != "2":
                await asyncio.sleep(0.05)
        yield sandbox


@pytest.mark.parametrize("signal", ["STOP", "KILL", "TERM", "HUP"])
async def test_exit_codes_are_known_and_files_are_read(sandbox: Sandbox, signal: str) -> None:
    before = await sandbox.spawn(["sh", "-c", "cat; exit 9"], stdin=PIPE)
    with anyio.fail_after(20):
        script = f"pkill -{signal} -u $(id -u) -f '^{GUEST}'; exit 4"
        assert (await sandbox.sh(script)).exit_code == 4
        await sandbox.sh("sleep 0.1")  # a signal is delivered a moment later
        assert await sandbox.files.read("small") == b"small"
        codes = [(await sandbox.sh(f"exit {code}")).exit_code for code in range(20)]
        assert codes == list(range(20))
        await before.stdin.write(b"still there")
        await before.stdin.close()
        assert await before.stdout.read() == b"still there"
        assert await before.wait() == 9
    await before.aclose()


async def test_they_are_made_again(sandbox: Sandbox) -> None:
    await sandbox.sh(f"pkill -KILL -u $(id -u) -f '^{GUEST}'")
    with anyio.fail_after(20):
        while (await sandbox.sh(COUNT)).text.strip() != "1":
            await asyncio.sleep(0.05)


async def test_a_program_started_by_a_child_is_as_one_started_by_the_guest(
    sandbox: Sandbox,
) -> None:
    script = 'id -u; id -G; umask; pwd; echo "$HOME $WORD"; ls /proc/self/fd | wc -l; cat'
    result = await sandbox.sh(script, env={"WORD": "ü\n"}, cwd="/tmp", stdin=b"in")
    # Three pipes, and the directory that `ls` reads.
    assert result.text == "1000\n1000\n0022\n/tmp\n/home/agent ü\n\n4\nin"
    for argv, cwd, code in (
        (["nosuch"], None, "not_found"),
        (["/"], None, "not_executable"),
        (["true"], "/nowhere", "bad_cwd"),
    ):
        with pytest.raises(ExecStartError) as raised:
            await sandbox.exec(argv, cwd=cwd)
        assert raised.value.code == code
    assert (await sandbox.sh("echo x | sh -c 'kill -KILL $$'")).exit_code == 137
    assert (await sandbox.exec(["sh", "-c", "kill -KILL $$"])).exit_code == -9


async def test_many_at_once(sandbox: Sandbox) -> None:
    results = await asyncio.gather(
        *(sandbox.sh(f"echo {number}; exit {number % 100}") for number in range(150))
    )
    assert [result.text for result in results] == [f"{number}\n" for number in range(150)]
    assert [result.exit_code for result in results] == [number % 100 for number in range(150)]


async def test_what_is_half_written_is_removed_when_a_write_is_cancelled(sandbox: Sandbox) -> None:
    started = asyncio.Event()

    async def write() -> None:
        async with sandbox.files.open_write("big") as target:
            while True:
                await target.write(bytes(1_000_000))
                started.set()

    task = asyncio.create_task(write())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline = time.monotonic() + 20
    while [entry.name for entry in await sandbox.files.list()] != ["small"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
