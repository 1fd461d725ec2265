"""Every promise of sandboxkit's conformance kit, on bubblewrap."""

from __future__ import annotations

import pytest
from sandboxkit_bubblewrap import BubblewrapProvider

from sandboxkit.testing.conformance import *  # noqa: F403


@pytest.fixture
def provider() -> BubblewrapProvider:
    return BubblewrapProvider()
