"""`sandboxkit providers`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Cli
from tests.cli.plugins import Plugins

OURS = {"docker", "e2b", "modal", "daytona"}
VENDORS = {
    *("docker", "e2b", "e2b_connect", "modal", "daytona", "daytona_sdk"),
    *("httpx", "aiohttp", "grpclib", "requests", "claude_agent_sdk"),
}
KEYS = {
    "E2B_API_KEY": "s3cret",
    "MODAL_TOKEN_ID": "s3cret",
    "MODAL_TOKEN_SECRET": "s3cret",
    "DAYTONA_API_KEY": "s3cret",
}

CLOUD = """
from sandboxkit.providers.base import Capabilities, Credentials
from sandboxkit.testing import MemoryProvider

class Provider(MemoryProvider):
    name = "cloud"
    interface_version = 1
    packages = ("json",)

    def __init__(self):
        super().__init__(capabilities=Capabilities(
            isolation="microvm", limits=frozenset({"cpu", "memory_gib"}),
            network=frozenset({"open"}), pause=True, creates_per_s=2, concurrent=20,
        ))

    def credentials(self):
        return Credentials(found=False, said="set CLOUD_KEY: https://cloud.example/keys")
"""
BARE = CLOUD.replace('"cloud"', '"bare"').replace('("json",)', '("a_vendor_sdk",)')


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path / "site")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def listed(cli: Cli, env: dict[str, str]) -> dict[str, dict[str, Any]]:
    done = cli.run("providers", "--json", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    return {each["name"]: each for each in json.loads(done.stdout)["providers"]}


def test_ours_are_listed_with_what_they_can_do(cli: Cli) -> None:
    found = listed(cli, KEYS)
    assert set(found) >= OURS
    for name in OURS:
        backend = found[name]
        assert backend["error"] is None
        assert backend["missing"] is None
        assert backend["interface_version"] == 1
        assert backend["credentials"]["found"] is True
        assert backend["packages"][0].startswith("sandboxkit ")
        assert backend["capabilities"]["isolation"] != "none"


def test_without_keys_it_names_the_variables(cli: Cli) -> None:
    without = dict.fromkeys(KEYS, "") | {"HOME": str(cli.cwd)}
    shown = cli.run("providers", env=without).stdout.decode()
    for name in ("E2B_API_KEY", "MODAL_TOKEN_ID", "DAYTONA_API_KEY"):
        assert name in shown


def test_a_plugin_in_plain_words(cli: Cli, plugins: Plugins) -> None:
    plugins.install("cloud", CLOUD)
    shown = cli.run("providers", env={**plugins.environment, "COLUMNS": "200"}).stdout.decode()
    (row, note) = [line for line in shown.splitlines() if line.startswith("cloud")]
    assert (
        "microVMs; limits cpu, memory; network open; pause; creates 2 a second; 20 at once" in row
    )
    assert "plugin-cloud 1.0, interface 1" in row
    assert " yes " in row
    assert " missing " in row
    assert note.endswith("set CLOUD_KEY: https://cloud.example/keys")


def test_what_is_not_installed_has_the_exact_line(cli: Cli, plugins: Plugins) -> None:
    plugins.install("bare", BARE)
    plugins.install("greedy", "import a_vendor_sdk")
    found = listed(cli, plugins.environment)
    for name in ("bare", "greedy"):
        assert "'a_vendor_sdk', which is not installed" in found[name]["missing"]
        assert f'pip install "sandboxkit[{name}]"' in found[name]["missing"]
        assert found[name]["error"] is None
    assert found["bare"]["capabilities"]["concurrent"] == 20
    shown = cli.run("providers", env={**plugins.environment, "COLUMNS": "60"}).stdout.decode()
    assert 'pip install "sandboxkit[bare]"\n' in shown


def test_a_broken_plugin_shows_its_error_and_breaks_nothing(cli: Cli, plugins: Plugins) -> None:
    plugins.install("crashes", "raise RuntimeError('no \\x1b[31mluck')")
    plugins.install("fails", CLOUD + "\n    def capabilities(self):\n        return 1 / 0\n")
    plugins.install("older", CLOUD.replace("interface_version = 1", "interface_version = 99"))
    plugins.install("twice", CLOUD, distribution="one-package")
    plugins.install("twice", CLOUD, distribution="other-package")
    found = listed(cli, {**plugins.environment, **KEYS})
    assert found["crashes"]["error"] == "it is broken: RuntimeError: no \x1b[31mluck"
    assert "ZeroDivisionError" in found["fails"]["error"]
    assert "interface version 99" in found["older"]["error"]
    assert "one-package" in found["twice"]["error"]
    assert "other-package" in found["twice"]["error"]
    assert all(found[name]["error"] is None for name in OURS)

    done = cli.run("providers", env={**plugins.environment, **KEYS})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"it is broken: RuntimeError: no \xe2\x90\x9b[31mluck" in done.stdout
    assert b"s3cret" not in done.stdout


def test_no_vendor_package_is_imported(cli: Cli) -> None:
    script = (
        "import sys\n"
        "from sandboxkit.cli import main\n"
        "sys.argv = ['sandboxkit', 'providers', '--json']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, env=cli.env(**KEYS)
    )
    loaded = set(done.stderr.decode().split())
    assert "sandboxkit.providers.docker.provider" in loaded
    assert not VENDORS & loaded
