"""Every promise of the conformance kit on Modal: the real SDK, and an emulated service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandboxkit.providers.modal import ModalProvider
from sandboxkit.testing.conformance import *  # noqa: F403

if TYPE_CHECKING:
    from tests.emulators.modal import ModalEmulator


@pytest.fixture
def provider(modal: ModalEmulator) -> ModalProvider:
    return ModalProvider()
