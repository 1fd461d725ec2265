"""A flood of a gigabyte, over the provider's own connection."""

from __future__ import annotations

import pytest

from sandboxkit.providers.docker import DockerProvider
from sandboxkit.testing.conformance.promises import output
from sandboxkit.testing.conformance.suite import part

pytestmark = pytest.mark.slow
globals().update(part(output))


@pytest.fixture
def provider(engine: str) -> DockerProvider:
    return DockerProvider(host=engine)


@pytest.fixture
def flood_bytes() -> int:
    return 1_000_000_000
