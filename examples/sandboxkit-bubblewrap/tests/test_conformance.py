"""Every promise of sandboxkit's conformance kit, on bubblewrap."""

from __future__ import annotations

import pytest
from sandboxkit_bubblewrap import BubblewrapProvider

from sandboxkit.testing.conformance import *  # noqa: F403

known_differences = [
    cannot(  # noqa: F405
        "test_the_work_directory_and_user_asked_for_are_used",
        "A sandbox has the one user 1000; another one is refused.",
    )
]


@pytest.fixture
def provider() -> BubblewrapProvider:
    return BubblewrapProvider()
