"""How the command line fails: one clear line, and an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import Cli

DEAD = "unix:///nowhere/docker.sock"


@pytest.mark.parametrize("command", [["demo"], ["exec", "true"], ["ls"], ["rm", "x"]])
def test_an_unknown_provider(command: list[str], tmp_path: Path) -> None:
    done = Cli(tmp_path).run(command[0], "--provider", "no-such", *command[1:])
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("Error: there is no provider named 'no-such'; known here: ")
    assert line.endswith("(provider_not_found)")


@pytest.mark.parametrize("command", [["demo"], ["exec", "true"], ["ls"], ["rm", "x"]])
def test_an_engine_that_does_not_answer(command: list[str], tmp_path: Path) -> None:
    done = Cli(tmp_path).run(*command, env={"DOCKER_HOST": DEAD})
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith(f"Error: No Docker engine answers at {DEAD}")


def test_wrong_usage(tmp_path: Path) -> None:
    for wrong in (["no-such-command"], ["demo", "--no-such-option"], ["run"]):
        assert Cli(tmp_path).run(*wrong).returncode == 2


def test_the_version(tmp_path: Path) -> None:
    from sandboxkit import __version__

    assert Cli(tmp_path).run("--version").stdout.decode() == f"sandboxkit {__version__}\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra(package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"  # as if it were not installed
        "from sandboxkit.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, cwd=tmp_path, text=True
    )
    assert done.returncode == 1
    assert f"needs the package {package!r}" in done.stderr
    assert f'{sys.executable} -m pip install "sandboxkit[cli]"\n' in done.stderr
    assert "Traceback" not in done.stderr
