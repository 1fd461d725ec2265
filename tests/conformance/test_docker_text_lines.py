"""The promises that bytes must keep, on a connection that carries lines of text alone.

The whole kit on lines of text is in `test_docker_slow.py`.
"""

from __future__ import annotations

import pytest

from sandboxkit.providers.base import Encoding
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.testing.conformance.promises import (
    connection,
    output,
    ports,
    spawned,
    trees,
    verbs,
)
from sandboxkit.testing.conformance.suite import part

globals().update(part(connection, output, ports, spawned, trees, verbs))


@pytest.fixture
def provider(engine: str) -> DockerProvider:
    return DockerProvider(host=engine)


@pytest.fixture
def encoding() -> Encoding:
    return "text_lines"
