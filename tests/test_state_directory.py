"""One place for what outlives a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxkit.providers.docker.engine_paths import EnginePaths
from sandboxkit.state_directory import state_directory
from sandboxkit.store import Store


def test_the_variable_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_directory() == EnginePaths.system().state == tmp_path / "sandboxkit"
    assert f"{tmp_path}/sandboxkit/store.db" in repr(Store())


@pytest.mark.parametrize("given", ["", "relative/path"])
def test_else_it_is_below_home(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", given)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert state_directory() == Path("/home/somebody/.local/state/sandboxkit")
