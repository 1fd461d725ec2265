"""`sandboxkit demo`: a person's first minute."""

from __future__ import annotations

import re

from tests.cli.command import Cli

ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def test_without_an_account(cli: Cli) -> None:
    done = cli.run("demo")
    shown = done.stdout.decode()

    assert (done.returncode, done.stderr) == (0, b"")
    assert "No ANTHROPIC_API_KEY is set, so the model is scripted" in shown
    assert "no network" in shown
    # What the tools did is real: the test failed, was mended, and passes.
    assert "AssertionError: -100.0 != 80" in shown
    assert "+ (1 - discount_percent / 100)" in shown
    assert "Ran 2 tests" in shown
    assert "The test failed because" in shown

    report = (cli.cwd / "sandboxkit-demo" / "report.md").read_text()
    assert "    OK" in report.splitlines()
    assert "sandboxkit-demo/report.md" in shown
    for line in report.splitlines():
        assert line in shown

    table = shown[shown.index("  turns") :]
    assert re.search(r"turns +6\n".replace(r"\n", ""), table)
    assert "600 in, 120 out, cache: 0 read, 0 written" in table
    assert re.search(r"\$\d\.\d+, as the agent reports it +scripted: nothing was charged", table)
    for part in ("prepare", "create", "connect", "first token", "tools", "model", "close", "total"):
        assert re.search(rf"^  {part} +\d+\.\d\d s", table, re.MULTILINE), part


def test_on_a_terminal_with_setup_and_a_directory_of_the_users(cli: Cli) -> None:
    code, got = cli.run_on_terminal("demo", "--setup", "--keep-output", "kept/here")

    shown = ESCAPE.sub(b"", got).decode()
    assert code == 0
    assert "A Docker engine answers at" in shown
    assert "✓ Agent connected" in shown
    assert "kept/here/report.md" in shown
    assert "    OK" in (cli.cwd / "kept/here/report.md").read_text().splitlines()
    assert not (cli.cwd / "sandboxkit-demo").exists()


def test_setup_is_for_docker(cli: Cli) -> None:
    done = cli.run("demo", "--setup", "--provider", "elsewhere")

    assert done.returncode == 1
    assert b"--setup brings up a Docker engine" in done.stderr
