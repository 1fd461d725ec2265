"""A sandbox with the CLI in it, and the two places where a client can have its CLI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandboxkit.agents.claude_code import claude_code_artifact
from sandboxkit.sandbox import Sandbox
from tests.agents.places import Inside, Local
from tests.gateway.world import Certificates


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    """Without a network, as all are by default."""
    async with Sandbox.create("docker", artifacts=[await claude_code_artifact()]) as sandbox:
        yield sandbox


@pytest.fixture
def inside(sandbox: Sandbox) -> Inside:
    return Inside(sandbox)


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
