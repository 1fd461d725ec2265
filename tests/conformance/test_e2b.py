"""Every promise of the conformance kit on E2B: the real SDK, and an emulated service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandboxkit.providers.e2b import E2BProvider
from sandboxkit.testing.conformance import *  # noqa: F403

if TYPE_CHECKING:
    from tests.emulators.e2b import E2BEmulator


@pytest.fixture
def provider(e2b: E2BEmulator) -> E2BProvider:
    return E2BProvider(creates_per_s=None, concurrent=None)
