"""However `sandboxkit mcp` ends, its sandbox ends as well, and no key is ever told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.cli.command import Cli
from tests.cli.mcp_client import ids, log_path, served, until_gone
from tests.emulators.faults import Fault

if TYPE_CHECKING:
    from tests.emulators.e2b import E2BEmulator

BUSY = "echo > begun; sleep 1000"


async def until_ended(pid: int) -> None:
    with anyio.fail_after(60):
        while await anyio.Path(f"/proc/{pid}").exists():
            await anyio.sleep(0.05)


async def test_the_client_closes_stdin(cli: Cli) -> None:
    async with served(cli) as client:
        await client.get("start_process", command="sleep 1000")
        await client.get("forward_port", port=8123)
        busy = asyncio.ensure_future(client.call("exec", command=BUSY))
        while "begun" not in await client.sh("ls"):
            await anyio.sleep(0.05)
        assert len(await ids(cli)) == 1
    await asyncio.wait({busy})
    assert await ids(cli) == []
    log = log_path(cli).read_text()
    assert "closed" in log
    assert "Stopping" not in log  # it was not for a signal
    assert "Traceback" not in log


async def test_a_signal(cli: Cli) -> None:
    async with served(cli) as client:
        busy = asyncio.ensure_future(client.call("exec", command=BUSY))
        while "begun" not in await client.sh("ls"):
            await anyio.sleep(0.05)
        os.kill(client.pid, signal.SIGTERM)
        await until_ended(client.pid)  # while stdin is still open
        assert await ids(cli) == []
        await asyncio.wait({busy})
    assert "Traceback" not in log_path(cli).read_text()


async def test_two_signals_are_no_impatience(cli: Cli, e2b: E2BEmulator) -> None:
    """Some clients send one soon after the other, and the cleanup is then under way."""
    log = anyio.Path(log_path(cli))
    async with served(cli, "--provider", "e2b") as client:
        await client.sh("true")
        assert len(e2b.sandboxes()) == 1
        e2b.faults.add(Fault("destroy", "delay", seconds=2))
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(client.pid, number)
            while "Stopping" not in await log.read_text():
                await anyio.sleep(0.01)
        await until_ended(client.pid)
        assert not e2b.sandboxes()
    said = await log.read_text()
    assert said.count("Stopping: ") == 1
    assert "closed" in said


async def test_while_the_sandbox_is_made(cli: Cli) -> None:
    async with served(cli) as client:
        making = asyncio.ensure_future(client.call("exec", command="true"))
        while not client.progress:
            await anyio.sleep(0.01)
    await asyncio.wait({making})
    assert await ids(cli) == []


async def test_a_cancelled_call_does_not_stop_the_making(cli: Cli) -> None:
    async with served(cli) as client:
        making = asyncio.ensure_future(client.call("exec", command="true"))
        while not client.progress:
            await anyio.sleep(0.01)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert (await client.get("info"))["state"] != "not started"
        assert await client.sh("echo here") == "here\n"
        assert len(await ids(cli)) == 1


async def test_a_killed_server(cli: Cli) -> None:
    async with served(cli, "--lease", "2") as client:
        await client.sh("true")
        os.kill(client.pid, signal.SIGKILL)
        await until_ended(client.pid)
        await until_gone(cli)


async def test_an_engine_that_does_not_answer(cli: Cli) -> None:
    async with served(cli, DOCKER_HOST="unix:///nowhere/docker.sock") as client:
        for _ in range(2):  # the second try is one of its own
            said = await client.fail("exec", command="true")
            assert "No Docker engine answers at unix:///nowhere/docker.sock" in said
        assert (await client.get("info"))["state"] == "not started"


async def test_on_another_backend(cli: Cli, e2b: E2BEmulator) -> None:
    async with served(cli, "--provider", "e2b", "--image", "debian:12.11") as client:
        assert await client.sh("echo $((6 * 7)); pwd") == "42\n/work\n"
        assert any("build debian:12.11 for E2B" in step for step in client.progress)
        await client.get("write_file", path="f", content="one")
        await client.get("edit_file", path="f", old="one", new="two")
        assert await client.sh("cat f") == "two"
        assert len(e2b.sandboxes()) == 1
        variables = await client.sh("env")
    assert not e2b.sandboxes()
    assert os.environ["E2B_API_KEY"] not in variables


async def test_a_wrong_key_is_not_told(cli: Cli, e2b: E2BEmulator) -> None:
    key = "e2b_" + "0123456789abcdef" * 2
    async with served(cli, "--provider", "e2b", E2B_API_KEY=key) as client:
        said = await client.fail("exec", command="true")
        assert "(authentication)" in said
        assert key not in said
    with contextlib.suppress(FileNotFoundError):
        assert key not in log_path(cli).read_text()
