"""Every promise of the conformance kit, on a real Daytona account: `nox -s live -- daytona`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sandboxkit.providers.base import SandboxProvider
from sandboxkit.testing.conformance import *  # noqa: F403
from tests.conformance import test_daytona as emulated

pytestmark = pytest.mark.live("daytona")

known_differences = getattr(emulated, "known_differences", ())


@pytest.fixture
def provider(live: Callable[[str], SandboxProvider]) -> SandboxProvider:
    return live("daytona")
