"""`sandboxkit doctor`."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.cli.command import TIMEOUT_S, Cli
from tests.cli.plugins import Plugins

DEAD = "unix:///nowhere/docker.sock"

PLUGIN = """
import asyncio
from pathlib import Path

from sandboxkit.errors import AuthenticationError, ProviderUnavailableError
from sandboxkit.providers.base import Credentials
from sandboxkit.testing import MemoryProvider

class Provider(MemoryProvider):
    name = "cloud"
    interface_version = 1

    def __init__(self):
        super().__init__()
        self.on(["echo", "hello"], stdout="hello\\n")
        self.on(["true"])
        self.set_up()

    def set_up(self):
        pass

    def forget(self, sandbox_id):
        if self.lives(sandbox_id):
            Path("destroyed").touch()
        super().forget(sandbox_id)
"""


def test_where_agents_can_run(cli: Cli) -> None:
    done = cli.run("doctor", env={"ANTHROPIC_API_KEY": "s3cret"})
    shown = done.stdout.decode()

    assert (done.returncode, done.stderr) == (0, b"")
    assert shown.rstrip().endswith("Agents can run here.")
    assert "✗ fail" not in shown
    for name in ("Python", "Claude Code", "Docker engine", "cgroup", "Disk limit", "Runtimes"):
        assert re.search(rf"^. (ok  |warn)  {name} ", shown, re.MULTILINE), name
    assert re.search(r"^✓ ok +Default image +sandboxkit/base:", shown, re.MULTILINE)
    assert re.search(r"^✓ ok +CLI in it +\d+\.\d+\.\d+ \(Claude Code\)", shown, re.MULTILINE)
    for name in ("Create", "Exec", "Write", "Read", "List", "Destroy"):
        assert re.search(rf"^✓ ok +{name} +[\d.]+ ms, ", shown, re.MULTILINE), name
    assert "ANTHROPIC_API_KEY is set" in shown
    assert "s3cret" not in shown


def test_where_no_engine_answers(cli: Cli) -> None:
    done = cli.run("doctor", env={"DOCKER_HOST": DEAD})
    shown = done.stdout.decode()

    assert done.returncode == 1
    failure = rf"^✗ fail +Docker engine +No Docker engine answers at {DEAD}"
    assert re.search(failure, shown, re.MULTILINE)
    assert "! warn  Model key" in shown
    assert "1 of the checks failed." in shown


def test_setup_does_not_replace_an_engine_that_was_chosen(cli: Cli) -> None:
    done = cli.run("doctor", "--setup", env={"DOCKER_HOST": DEAD})

    assert done.returncode == 1
    assert f"No Docker engine answers at {DEAD}, named by DOCKER_HOST" in done.stderr.decode()


@pytest.mark.parametrize("arguments", [("docker",), ("--provider", "docker")])
def test_docker_by_name(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli.run("doctor", *arguments, env={"DOCKER_HOST": DEAD})
    assert done.returncode == 1
    assert f"No Docker engine answers at {DEAD}" in done.stdout.decode()


def findings(
    directory: Path, more: str = "", env: dict[str, str] | None = None
) -> tuple[int, dict[str, str]]:
    """Of `doctor cloud`: the exit code, and each finding by what was looked at."""
    plugins = Plugins(directory / "site")
    plugins.install("cloud", PLUGIN + more)
    done = Cli(directory).run("doctor", "cloud", env={**plugins.environment, **(env or {})})
    assert done.stderr == b""
    lines = re.findall(r"^. (ok  |warn|fail)  (.{16})(.*)$", done.stdout.decode(), re.MULTILINE)
    return done.returncode, {
        name.strip(): f"{state.strip()}: {said}" for state, name, said in lines
    }


def test_any_provider_lives_through_a_whole_sandbox(tmp_path: Path) -> None:
    code, found = findings(tmp_path)
    assert code == 0
    names = ["Provider", "Credentials", "Create", "Exec", "Write", "Read", "List", "Destroy"]
    assert [name for name in found if name in names] == names
    for name in names[2:]:
        assert re.fullmatch(r"ok: [\d.]+ ms, .+", found[name]), found[name]
    assert found["Credentials"] == "ok: none needed"
    assert (tmp_path / "destroyed").exists()


def test_a_missing_key_is_told_before_anyone_is_asked(tmp_path: Path) -> None:
    code, found = findings(
        tmp_path,
        "\n    def credentials(self):\n        return Credentials(False, 'set CLOUD_KEY')\n",
    )
    assert code == 1
    assert found["Credentials"] == "fail: set CLOUD_KEY"
    assert "Create" not in found


@pytest.mark.parametrize(
    ("broken", "step", "said"),
    [
        (
            "self.refuse(AuthenticationError('the key was refused'))",
            "Create",
            "the key was refused (authentication)",
        ),
        ("self.on(['echo'], exit_code=3)", "Exec", "exit"),
        ("self.on(['echo'], stdout='hullo')", "Exec", "what came back is not what was sent"),
    ],
)
def test_a_step_that_fails_is_named_and_nothing_is_left(
    tmp_path: Path, broken: str, step: str, said: str
) -> None:
    code, found = findings(tmp_path, f"\n    def set_up(self):\n        {broken}\n")
    assert code == 1
    assert found[step].startswith("fail: ")
    assert said in found[step]
    assert (tmp_path / "destroyed").exists() is (step != "Create")


def test_a_list_that_finds_nothing_is_a_failure(tmp_path: Path) -> None:
    code, found = findings(
        tmp_path,
        "\n    async def list(self, labels):\n        return\n        yield\n",
    )
    assert code == 1
    assert found["List"] == "fail: its label finds nothing"
    assert found["Destroy"].startswith("ok: ")


def test_an_unknown_provider(tmp_path: Path) -> None:
    done = Cli(tmp_path).run("doctor", "clod")
    assert done.returncode == 1
    assert "there is no provider named 'clod'; known here: " in done.stdout.decode()


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    plugins = Plugins(tmp_path / "site")
    hangs = "self.on(['true'], lambda call: asyncio.sleep(3600))"
    plugins.install("cloud", PLUGIN + f"\n    def set_up(self):\n        {hangs}\n")
    cli = Cli(tmp_path)
    process = cli.start("doctor", "cloud", env={**plugins.environment, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if b"Create" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
    assert (tmp_path / "destroyed").exists()
