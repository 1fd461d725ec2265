"""What makes the live tests safe, tried on a cloud that costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.plugins import Plugins

TIMEOUT_S = 100.0

CLOUD = """
import os
from pathlib import Path

from sandboxkit.providers.base import Credentials
from sandboxkit.testing import MemoryProvider

class Provider(MemoryProvider):
    name = "cloud"
    interface_version = 1
    there = {}  # for all objects: a service remembers

    def __init__(self):
        super().__init__()
        self._living = Provider.there
        self.on(["true"])

    def credentials(self):
        return Credentials(bool(os.environ["CLOUD_KEY"]), "set CLOUD_KEY")

    def forget(self, sandbox_id):
        if self.lives(sandbox_id):
            with Path("destroyed").open("a") as file:
                file.write(sandbox_id + "\\n")
        super().forget(sandbox_id)
"""

CONFTEST = """
from tests.live.plugin import (
    live,
    no_sandbox_is_left,
    pytest_collection_modifyitems,
    pytest_runtest_call,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
"""

TESTS = """
import asyncio
import os
import signal
import sys

import pytest
from sandboxkit.sandbox import Sandbox

pytestmark = pytest.mark.live("cloud")

async def test_well_behaved(live):
    async with Sandbox.create(live("cloud")) as sandbox:
        assert (await sandbox.exec(["true"])).exit_code == 0

async def test_leaves_one(live):
    sandbox = await Sandbox.create(live("cloud"))
    await sandbox.detach(keep_s=3600)

async def test_is_interrupted(live):
    sandbox = await Sandbox.create(live("cloud"))
    await sandbox.detach(keep_s=3600)
    os.kill(os.getpid(), getattr(signal, os.environ["BY"]))
    await asyncio.sleep(3600)

async def test_wants_two(live):
    for _ in range(2):
        async with Sandbox.create(live("cloud")):
            pass

async def test_comes_after(live):
    pass
"""

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
markers = live
"""


class Run:
    """A run of pytest in a directory of its own.

    Attributes:
        code: Its exit code.
        said: What it printed.
        destroyed: How many sandboxes were destroyed.
    """

    def __init__(self, directory: Path, root: Path, test: str, **env: str) -> None:
        plugins = Plugins(directory / "site")
        plugins.install("cloud", CLOUD)
        (directory / "conftest.py").write_text(CONFTEST)
        (directory / "test_it.py").write_text(TESTS)
        (directory / "pytest.ini").write_text(INI)
        mark = [] if env.pop("MARK", "") == "none" else ["-m", "live"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-ra", *mark, "-k", test, "test_it.py"],
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": f"{root}:{plugins.environment['PYTHONPATH']}",
                "CLOUD_KEY": "s3cret",
                **env,
            },
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        self.code = done.returncode
        self.said = done.stdout.decode() + done.stderr.decode()
        file = directory / "destroyed"
        self.destroyed = len(file.read_text().split()) if file.exists() else 0


@pytest.fixture
def root(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath


def test_a_run_that_leaves_nothing(tmp_path: Path, root: Path) -> None:
    run = Run(tmp_path, root, "well_behaved")
    assert run.code == 0, run.said
    assert run.destroyed == 1
    assert "1 sandboxes were asked for, of 200 at the most" in run.said


def test_nothing_runs_unless_it_is_asked_for(tmp_path: Path, root: Path) -> None:
    run = Run(tmp_path, root, "well_behaved", MARK="none")
    assert run.code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "s3cret" not in run.said
    assert not (tmp_path / "destroyed").exists()


def test_without_a_key_it_says_what_to_set(tmp_path: Path, root: Path) -> None:
    run = Run(tmp_path, root, "well_behaved", CLOUD_KEY="")
    assert run.code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "left out: cloud: set CLOUD_KEY\n" in run.said


def test_what_a_test_has_left_is_swept_up_and_a_failure(tmp_path: Path, root: Path) -> None:
    run = Run(tmp_path, root, "leaves_one")
    assert run.code == pytest.ExitCode.TESTS_FAILED
    assert "the live tests had left, and it was swept up now: ['cloud sandboxkit-" in run.said
    assert run.destroyed == 1


@pytest.mark.parametrize("by", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_is_swept_up(tmp_path: Path, root: Path, by: str) -> None:
    assert hasattr(signal, by)
    run = Run(tmp_path, root, "is_interrupted", BY=by)
    assert run.code == pytest.ExitCode.INTERRUPTED, run.said
    assert run.destroyed == 1


@pytest.mark.parametrize(
    ("variable", "value", "created"),
    [("SANDBOXKIT_LIVE_SANDBOXES", "1", 1), ("SANDBOXKIT_LIVE_SECONDS", "0", 0)],
)
def test_a_run_that_spends_its_budget_has_failed(
    tmp_path: Path, root: Path, variable: str, value: str, created: int
) -> None:
    run = Run(tmp_path, root, "wants_two or comes_after", **{variable: value})
    assert run.code == pytest.ExitCode.TESTS_FAILED
    assert f"the budget of the live tests is spent: {variable}={value} s" in run.said
    assert "test_comes_after" not in run.said
    assert "1 failed" in run.said
    assert run.destroyed == created
