"""Plugins by name: found lazily, and each way to fail told apart."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    InvalidSpecError,
    ProviderConflictError,
    ProviderLoadError,
    ProviderNotFoundError,
    ProviderNotInstalledError,
)
from sandboxkit.providers.base import INTERFACE_VERSION
from sandboxkit.providers.registry import providers
from sandboxkit.testing import MemoryProvider

Install = Callable[..., None]

PLUGIN = """
from sandboxkit.testing import MemoryProvider

class Provider(MemoryProvider):
    name = "{name}"
    interface_version = {version}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one provider, as pip would lay it out."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def install(distribution: str, name: str, module: str, source: str) -> None:
        metadata = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(
            f"[sandboxkit.providers]\n{name} = {module}:Provider\n"
        )
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))

    return install


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ProviderNotFoundError, match=r"'dokcer'.*known here: .*docker"):
        providers.make("dokcer")


def test_an_installed_plugin_is_found_by_its_name(install: Install) -> None:
    install(
        "plugin-a", "cloud-a", "plugin_a", PLUGIN.format(name="cloud-a", version=INTERFACE_VERSION)
    )
    assert providers.make("cloud-a").name == "cloud-a"


def test_a_missing_package_gives_the_line_that_installs_it(install: Install) -> None:
    install("plugin-b", "cloud-b", "plugin_b", "import a_vendor_sdk_that_is_not_there")
    with pytest.raises(ProviderNotInstalledError, match=r'pip install "sandboxkit\[cloud-b\]"'):
        providers.make("cloud-b")


def test_two_packages_with_one_name_are_both_named(install: Install) -> None:
    source = PLUGIN.format(name="cloud-c", version=INTERFACE_VERSION)
    install("plugin-c1", "cloud-c", "plugin_c1", source)
    install("plugin-c2", "cloud-c", "plugin_c2", source)
    with pytest.raises(ProviderConflictError, match=r"plugin-c1.*plugin-c2"):
        providers.make("cloud-c")


def test_a_broken_plugin_says_so_and_keeps_its_own_traceback(install: Install) -> None:
    install("plugin-d", "cloud-d", "plugin_d", "1 / 0")
    with pytest.raises(ProviderLoadError, match="failed to import") as caught:
        providers.make("cloud-d")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert providers.make("docker").name == "docker"


def test_a_plugin_for_another_interface_version_is_refused(install: Install) -> None:
    install("plugin-e", "cloud-e", "plugin_e", PLUGIN.format(name="cloud-e", version=99))
    with pytest.raises(ProviderLoadError, match="interface version 99"):
        providers.make("cloud-e")


def test_something_that_is_no_provider_is_refused(install: Install) -> None:
    install("plugin-f", "cloud-f", "plugin_f", "class Provider: pass")
    with pytest.raises(ProviderLoadError, match="not a subclass"):
        providers.make("cloud-f")


async def test_a_provider_registered_at_run_time_is_used_by_name() -> None:
    sk.register("in-a-notebook", MemoryProvider)
    async with sk.Sandbox.create("in-a-notebook") as sandbox:
        assert sandbox.info.provider == MemoryProvider.name


def test_a_name_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InvalidSpecError):
        sk.register("", MemoryProvider)


def test_importing_sandboxkit_imports_no_vendor_package_and_no_pydantic() -> None:
    script = "import sandboxkit, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"docker", "claude_agent_sdk", "pydantic", "typer"} & set(loaded)
