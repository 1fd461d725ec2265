"""`sandboxkit health`."""

from __future__ import annotations

import json

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
        await sandbox.pause()
        told = await to_thread.run_sync(cli.run, "health", sandbox.id)
        assert told.stdout.decode().startswith("machine  paused (it is paused)")
        assert (await sandbox.health()).machine.state == "paused"  # it was not woken
    told = await to_thread.run_sync(cli.run, "health", sandbox.id)
    assert told.returncode == 1
    assert sandbox.id in told.stderr.decode()
