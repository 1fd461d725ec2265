"""Every promise of the conformance kit, on a real E2B account: `nox -s live -- e2b`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sandboxkit.providers.base import SandboxProvider
from sandboxkit.testing.conformance import *  # noqa: F403
from tests.conformance import test_e2b as emulated

pytestmark = pytest.mark.live("e2b")

known_differences = getattr(emulated, "known_differences", ())


@pytest.fixture
def provider(live: Callable[[str], SandboxProvider]) -> SandboxProvider:
    return live("e2b")
