"""`sandboxkit health`."""

from __future__ import annotations

import json

import pytest
from anyio import to_thread

from sandboxkit.sandbox import Sandbox
from tests.cli.command import Cli


async def test_health(cli: Cli, engine: str) -> None:
    async with Sandbox.create("docker") as sandbox:
        told = await to_thread.run_sync(cli.run, "health", sandbox.id)
        machine, guest = told.stdout.decode().splitlines()
        assert machine.startswith("machine  ok (memory ")
        assert guest.startswith("guest    ok (")
        assert told.returncode == 0
        told = await to_thread.run_sync(cli.run, "health", sandbox.id, "--json")
        assert json.loads(told.stdout)["ok"] is True
    told = await to_thread.run_sync(cli.run, "health", sandbox.id)
    assert told.returncode == 1
    assert sandbox.id in told.stderr.decode()


@pytest.mark.slow
async def test_a_paused_one_is_not_woken(cli: Cli, engine: str) -> None:
    async with Sandbox.create("docker") as sandbox:
        await sandbox.pause()
        told = await to_thread.run_sync(cli.run, "health", sandbox.id)
        assert told.stdout.decode().startswith("machine  paused (it is paused)")
        assert told.returncode == 0
        assert (await sandbox.health()).machine.state == "paused"
        await sandbox.resume()
