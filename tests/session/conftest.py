"""What tests of named sessions share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from sandboxkit.session import Session


@pytest.fixture
async def name() -> AsyncIterator[str]:
    """A name on Docker that nobody else has; what has it is ended."""
    name = f"n-{uuid4().hex[:12]}"
    yield name
    await Session("docker", name=name).destroy()
