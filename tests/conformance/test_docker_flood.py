"""A flood of a gigabyte, over the provider's own connection."""

from __future__ import annotations

import pytest

from sandboxkit.providers.docker import DockerProvider
from sandboxkit.testing.conformance.fixtures import *  # noqa: F403
from sandboxkit.testing.conformance.promises.output import (
    test_a_flood_costs_bounded_memory as test_a_flood_costs_bounded_memory,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def provider(engine: str) -> DockerProvider:
    return DockerProvider(host=engine)


@pytest.fixture
def flood_bytes() -> int:
    return 1_000_000_000
