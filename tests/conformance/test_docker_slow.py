"""The whole conformance kit on lines of text, and a flood of 400 MB."""

from __future__ import annotations

import pytest

from sandboxkit.providers.base import Encoding
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.testing.conformance import *  # noqa: F403

pytestmark = pytest.mark.slow


@pytest.fixture
def provider(engine: str) -> DockerProvider:
    return DockerProvider(host=engine)


@pytest.fixture
def encoding() -> Encoding:
    return "text_lines"


@pytest.fixture
def flood_bytes() -> int:
    return 400_000_000
