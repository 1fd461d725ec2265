"""`sandboxkit doctor`."""

from __future__ import annotations

import re

from tests.cli.command import Cli

DEAD = "unix:///nowhere/docker.sock"


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
    assert re.search(r"create \d+ ms, exec [\d.]+ ms \(median of 20\), destroy \d+ ms", shown)
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
