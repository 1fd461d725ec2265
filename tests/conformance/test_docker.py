"""Every promise of the conformance kit, on a real Docker engine."""

from __future__ import annotations

import pytest

from sandboxkit.providers.docker import DockerProvider
from sandboxkit.testing.conformance import *  # noqa: F403


@pytest.fixture
def provider(engine: str) -> DockerProvider:
    return DockerProvider(host=engine)
