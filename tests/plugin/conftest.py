"""What the example of a third-party backend needs of this machine."""

from __future__ import annotations

import os
import shutil

import pytest

from sandboxkit.providers.docker.debian import can_install, install
from tests.conftest import BRING_UP_VARIABLE, run_apart


@pytest.fixture(scope="session")
def bubblewrap() -> None:
    """`bwrap`; installed where it is missing on Debian or Ubuntu, as root."""
    if shutil.which("bwrap"):
        return
    if os.environ.get(BRING_UP_VARIABLE) == "0" or not can_install():
        pytest.fail("bwrap is not installed: apt-get install bubblewrap", pytrace=False)
    run_apart(lambda: install(["bubblewrap"], print))
