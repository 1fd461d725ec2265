"""`sandboxkit ls` and `rm`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial

import pytest
from anyio import to_thread

from sandboxkit import ownership
from sandboxkit.errors import SandboxNotFoundError
from sandboxkit.sandbox import Sandbox
from tests.cli.command import Cli


@contextlib.asynccontextmanager
async def sandbox_of(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Sandbox]:
    """A sandbox that belongs to the owner in whose name the command runs."""
    with monkeypatch.context() as patch:
        patch.setenv("SANDBOXKIT_OWNER", cli.owner)
        ownership.owner.cache_clear()
        opening = Sandbox.create("docker", labels={"task": "listing"})
        sandbox = await opening
    ownership.owner.cache_clear()
    async with contextlib.aclosing(sandbox):
        yield sandbox


async def test_ls(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = await to_thread.run_sync(cli.run, "ls")
    assert empty.stdout.decode() == f"There is no sandbox of {cli.owner} on docker.\n"
    async with Sandbox.create("docker") as other, sandbox_of(cli, monkeypatch) as own:
        listed = (await to_thread.run_sync(cli.run, "ls")).stdout.decode()
        quiet = (await to_thread.run_sync(cli.run, "ls", "-q")).stdout.decode()
        everyone = (await to_thread.run_sync(cli.run, "ls", "-q", "--everyone")).stdout.decode()
    row = next(line for line in listed.splitlines() if own.id in line)
    for cell in ("running", cli.owner, "sandboxkit/base:", "task=listing"):
        assert cell in row
    assert other.id not in listed
    assert quiet.split() == [own.id]
    assert {own.id, other.id} <= set(everyone.split())


async def test_rm(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async with sandbox_of(cli, monkeypatch) as own:
        done = await to_thread.run_sync(cli.run, "rm", "no-such-id", own.id)
        assert (done.returncode, done.stdout.decode()) == (1, f"{own.id}\n")
        assert done.stderr.decode().startswith("Error: There is no sandbox of this id: no-such-id")
        with pytest.raises(SandboxNotFoundError):
            await Sandbox.attach("docker", own.id)


async def test_rm_all(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox.create("docker") as other, sandbox_of(cli, monkeypatch) as own:
        asked = await to_thread.run_sync(cli.run, "rm", "--all")
        assert asked.returncode == 2
        assert own.id in asked.stdout.decode()
        assert b"add --yes to remove all 1 of them" in asked.stderr
        assert await to_thread.run_sync(cli.ids) == [own.id]

        agreed = await to_thread.run_sync(partial(cli.run, "rm", "--all", "--yes"))
        assert (agreed.returncode, agreed.stdout.decode()) == (0, f"{own.id}\n")
        assert await to_thread.run_sync(cli.ids) == []
        assert (await other.exec(["true"])).exit_code == 0


def test_rm_of_nothing(cli: Cli) -> None:
    assert cli.run("rm", "--all", "--yes").returncode == 0
    assert cli.run("rm").returncode == 2
    assert cli.run("rm", "--all", "an-id").returncode == 2
