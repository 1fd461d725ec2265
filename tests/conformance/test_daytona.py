"""Every promise of the conformance kit, on the Daytona SDK and an emulated Daytona."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandboxkit.providers.daytona import DaytonaProvider
from sandboxkit.testing.conformance import *  # noqa: F403
from tests.emulators.daytona import DaytonaEmulator

# Of these promises, the service keeps its part by a time to live in whole minutes.
_MINUTES = {
    "test_a_sandbox_without_its_host_ends_by_itself",
    "test_a_sandbox_is_kept_for_as_long_as_asked_for",
}


@pytest.fixture
def provider(daytona: DaytonaEmulator, request: pytest.FixtureRequest) -> Iterator[DaytonaProvider]:
    minutes_count = getattr(request.node, "originalname", "") in _MINUTES
    daytona.minute_s = 5.0 if minutes_count else 60.0
    yield DaytonaProvider()
    daytona.minute_s = 60.0
