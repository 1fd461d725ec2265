"""The emulated clouds of a test run: one each, started when first wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from tests.emulators.daytona import DaytonaEmulator
from tests.emulators.e2b import E2BEmulator
from tests.emulators.emulator import Emulator
from tests.emulators.modal import ModalEmulator

E = TypeVar("E", bound=Emulator)


@contextmanager
def _running(emulator: E) -> Iterator[E]:
    """The emulator, with the environment that points its SDK at it.

    At the end, nothing that a test created may be left there.
    """
    with emulator:
        before = {name: os.environ.get(name) for name in emulator.environment()}
        os.environ.update(emulator.environment())
        try:
            yield emulator
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
        assert not emulator.sandboxes(), f"left at {emulator.url}: {emulator.sandboxes()}"


@pytest.fixture(scope="session")
def e2b(engine: str) -> Iterator[E2BEmulator]:
    """An emulated E2B."""
    with _running(E2BEmulator(engine)) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def modal(engine: str) -> Iterator[ModalEmulator]:
    """An emulated Modal."""
    with _running(ModalEmulator(engine)) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def daytona(engine: str) -> Iterator[DaytonaEmulator]:
    """An emulated Daytona."""
    with _running(DaytonaEmulator(engine)) as emulator:
        yield emulator
