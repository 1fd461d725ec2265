"""`sandboxkit sessions`, and `run` with a session that is kept."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread

from sandboxkit.store import Store
from sandboxkit.store.blobs import SWEEP_S, path_of
from sandboxkit.testing import ScriptedModel, call, say
from tests.cli.command import Cli
from tests.cli.test_run import account

NOBODY = "12345678-1234-4234-8234-123456789abc"


@pytest.fixture
def plain_cli(tmp_path: Path) -> Cli:
    """The command, where no sandbox is made."""
    return Cli(tmp_path)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with a state directory of its own."""
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


async def begin(url: str, session_id: str = NOBODY) -> None:
    async with Store(url) as store:
        recipe = {"version": 1, "spec": {"image": "debian:12"}, "secrets": ["TOKEN\x1b[2J"]}
        writer = await store.sessions.begin(
            session_id, agent="messages", backend="modal", spec=recipe
        )
        await store.sessions.add_snapshot(writer, (), files=3, size=12_345)


async def test_ls_show_and_rm(plain_cli: Cli, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/records.db"
    run = partial(plain_cli.run, "sessions")
    await begin(url)

    row = (await to_thread.run_sync(run, "ls", "--store", url)).stdout.decode().splitlines()[1]
    for cell in (NOBODY, "open", "messages", "modal", "3", "12.3 kB"):
        assert cell in row
    quiet = await to_thread.run_sync(run, "ls", "--store", url, "-q")
    assert quiet.stdout.decode() == f"{NOBODY}\n"
    [listed] = json.loads((await to_thread.run_sync(run, "ls", "--store", url, "--json")).stdout)
    assert listed["state"] == "open"
    assert (listed["files"], listed["bytes"]) == (3, 12_345)

    shown = await to_thread.run_sync(run, "show", NOBODY, "--store", url)
    for words in ("debian:12", "secrets, to be given again", "TOKEN␛[2J", "run --resume"):
        assert words in shown.stdout.decode()
    whole = await to_thread.run_sync(run, "show", NOBODY, "--store", url, "--json")
    assert json.loads(whole.stdout)["recipe"]["spec"] == {"image": "debian:12"}

    kept = await to_thread.run_sync(run, "rm", NOBODY, "--store", url)
    assert (kept.returncode, kept.stdout) == (1, b"")
    assert b"Add --yes to forget it all the same" in kept.stderr
    gone = await to_thread.run_sync(run, "rm", "no-such-id", NOBODY, "--yes", "--store", url)
    assert (gone.returncode, gone.stdout.decode()) == (1, f"{NOBODY}\n")
    assert b"There is no session no-such-id in the store. (no_session)" in gone.stderr
    async with Store(url) as store:
        assert await store.list() == []


def test_the_default_store(plain_cli: Cli, env: dict[str, str], tmp_path: Path) -> None:
    empty = plain_cli.run("sessions", "ls", env=env)
    assert empty.returncode == 0
    where = f"{tmp_path}/state/sandboxkit/store.db"
    assert empty.stdout.decode().startswith("There is no session in <Store sqlite")
    assert where in empty.stdout.decode()
    assert plain_cli.run("sessions", "ls", "--json", env=env).stdout == b"[]\n"


def test_a_password_is_not_shown(plain_cli: Cli) -> None:
    url = "postgresql://user:s3cret@127.0.0.1:1/none"
    done = plain_cli.run("sessions", "ls", "--store", url)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: The store postgresql")
    assert b"s3cret" not in done.stdout + done.stderr


async def test_sweep_frees_what_no_session_has(plain_cli: Cli, tmp_path: Path) -> None:
    url, files = f"sqlite:///{tmp_path}/records.db", tmp_path / "pieces"
    await begin(url)
    async with Store(url, files=files) as store:
        old = files / path_of(await store.blobs.put(b"an old piece"))
        young = files / path_of(await store.blobs.put(b"a young piece"))
    long_ago = time.time() - 2 * SWEEP_S
    os.utime(old, (long_ago, long_ago))
    run = partial(plain_cli.run, "sessions", "sweep", "--store", url, "--files", str(files))
    assert (await to_thread.run_sync(run)).stdout == b"pieces freed: 1\n"
    assert (old.exists(), young.exists()) == (False, True)


async def test_run_goes_on_with_what_it_kept(cli: Cli, env: dict[str, str]) -> None:
    model = ScriptedModel(
        [call("Bash", command="echo one >> notes"), say("Noted."), say("As I said.")]
    )
    async with model:
        run = partial(cli.run, env={**env, **account(model)})
        first = await to_thread.run_sync(run, "run", "Note one", "--keep", "--cpu", "0.5")
        assert (first.returncode, first.stdout) == (0, b"Noted.\n")
        listed = await to_thread.run_sync(run, "sessions", "ls", "-q")
        session = listed.stdout.decode().strip()
        assert f"sandboxkit run --resume {session}" in first.stderr.decode()
        arguments = ("run", "What?", "--resume", session, "--download", "notes")
        again = await to_thread.run_sync(run, *arguments)
        assert (again.returncode, again.stdout) == (0, b"As I said.\n")
    assert (cli.cwd / "notes").read_text() == "one\n"
    assert "0.5 CPU" in again.stderr.decode()  # as it was
    said = json.dumps([message.model_dump() for message in model.requests[-1].messages])
    assert "Note one" in said


async def test_run_with_a_name_goes_on_where_it_lives(cli: Cli, env: dict[str, str]) -> None:
    model = ScriptedModel(
        [call("Bash", command="echo one >> notes"), say("Noted."), say("As I said.")]
    )
    async with model:
        run = partial(cli.run, env={**env, **account(model)})
        try:
            first = await to_thread.run_sync(run, "run", "Note one", "--name", "notes")
            assert (first.returncode, first.stdout) == (0, b"Noted.\n")
            [lives] = await to_thread.run_sync(cli.ids)
            arguments = ("run", "What?", "--name", "notes", "--download", "notes")
            again = await to_thread.run_sync(run, *arguments)
            told = again.stderr.decode()
            assert (again.returncode, again.stdout) == (0, b"As I said.\n"), told
            assert await to_thread.run_sync(cli.ids) == [lives]
        finally:
            await to_thread.run_sync(run, "rm", "--all", "--yes")
    assert (cli.cwd / "notes").read_text() == "one\n"
    said = json.dumps([message.model_dump() for message in model.requests[-1].messages])
    assert "Note one" in said


def test_run_with_a_session_that_is_not_there(cli: Cli, env: dict[str, str]) -> None:
    done = cli.run("run", "Go", "--resume", NOBODY, env={**env, "ANTHROPIC_API_KEY": "s3cret"})
    assert done.returncode == 1
    assert f"Error: There is no session {NOBODY} in the store." in done.stderr.decode()
