"""The emulated clouds of a test run: one each, started when first wanted."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.emulators.emulator import Emulator

if TYPE_CHECKING:
    from tests.emulators.daytona import DaytonaEmulator
    from tests.emulators.e2b import E2BEmulator
    from tests.emulators.modal import ModalEmulator

E = TypeVar("E", bound=Emulator)


@contextmanager
def _running(emulator: E) -> Generator[E]:
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


# Their SDKs take seconds to import: only where a test wants them.


@pytest.fixture(scope="session")
def e2b(engine: str) -> Iterator[E2BEmulator]:
    """An emulated E2B."""
    from tests.emulators.e2b import E2BEmulator

    with _running(E2BEmulator(engine)) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def modal(engine: str) -> Iterator[ModalEmulator]:
    """An emulated Modal."""
    from tests.emulators.modal import ModalEmulator

    with _running(ModalEmulator(engine)) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def daytona(engine: str) -> Iterator[DaytonaEmulator]:
    """An emulated Daytona."""
    from tests.emulators.daytona import DaytonaEmulator

    with _running(DaytonaEmulator(engine)) as emulator:
        yield emulator
