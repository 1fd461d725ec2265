"""The command line on a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Cli


@pytest.fixture
def cli(engine: str, tmp_path: Path) -> Iterator[Cli]:
    """The command, which must leave nothing behind."""
    cli = Cli(tmp_path)
    yield cli
    assert cli.ids() == []
