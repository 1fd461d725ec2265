"""The same tests on both databases."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandboxkit.store import Store
from tests.store.postgres import MISSING, Cluster, programs


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    found = programs()
    if found is None:
        if os.environ.get("SANDBOXKIT_TESTS_POSTGRESQL") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    running = Cluster(found)
    yield running
    running.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/store.db"
    running: Cluster = request.getfixturevalue("cluster")
    return running.database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with Store(url) as store:
        yield store
