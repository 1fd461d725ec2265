"""The promises that bytes must keep, on a connection that carries lines of text alone.

The whole kit on lines of text is in `test_docker_slow.py`.
"""

from __future__ import annotations

import pytest

from sandboxkit.providers.base import Encoding
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.testing.conformance.fixtures import *  # noqa: F403
from sandboxkit.testing.conformance.promises.connection import *  # noqa: F403
from sandboxkit.testing.conformance.promises.output import *  # noqa: F403
from sandboxkit.testing.conformance.promises.ports import *  # noqa: F403
from sandboxkit.testing.conformance.promises.spawned import *  # noqa: F403
from sandboxkit.testing.conformance.promises.trees import *  # noqa: F403
from sandboxkit.testing.conformance.promises.verbs import *  # noqa: F403


@pytest.fixture
def provider(engine: str) -> DockerProvider:
    return DockerProvider(host=engine)


@pytest.fixture
def encoding() -> Encoding:
    return "text_lines"
