"""`sandboxkit gc`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sandboxkit.sandbox import Sandbox
from tests.cli.command import Cli

DYING = """
import asyncio, os, signal
import sandboxkit as sk
from sandboxkit.providers.docker.engine import Engine

def killed(*_, **__): os.kill(os.getpid(), signal.SIGKILL)

async def main():
    Engine.open = killed
    await sk.Sandbox.create("docker")

asyncio.run(main())
"""


def die(cli: Cli, env: dict[str, str]) -> None:
    process = [sys.executable, "-c", DYING]
    subprocess.run(process, env=cli.env(**env), check=False, cwd=cli.cwd)


def test_gc(cli: Cli, tmp_path: Path) -> None:
    env = {"SANDBOXKIT_JOURNAL": str(tmp_path / "journal.db")}
    empty = cli.run("gc", env=env)
    assert (empty.returncode, empty.stdout) == (0, b"There is no sandbox of yours on docker.\n")
    die(cli, env)
    (left,) = cli.ids()

    planned = cli.run("gc", "--dry-run", env=env)
    row = next(line for line in planned.stdout.decode().splitlines() if left in line)
    for cell in ("docker", "creating", cli.owner, "due"):
        assert cell in row
    assert cli.ids() == [left]

    done = cli.run("gc", "--provider", "docker", env=env)
    assert done.returncode == 0
    row = next(line for line in done.stdout.decode().splitlines() if left in line)
    assert "removed" in row
    assert cli.ids() == []


async def test_gc_leaves_what_is_in_use(cli: Cli) -> None:
    async with Sandbox.create("docker") as other:
        told = cli.run("gc", "--everyone", "--paused", "--dry-run").stdout.decode()
        row = next(line for line in told.splitlines() if other.id in line)
        assert "kept" in row
        assert (await other.exec(["true"])).exit_code == 0


def test_gc_of_a_backend_that_cannot_be_asked(cli: Cli) -> None:
    done = cli.run("gc", env={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: docker: ")
    assert cli.run("gc", "--provider", "no-such-backend").returncode == 1
