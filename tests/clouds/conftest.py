"""The same test on every backend: Docker, and the emulated clouds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sandboxkit.providers.registry import providers
from sandboxkit.spec import OWNER_LABEL
from tests.emulators.emulator import Emulator
from tests.leaks import OWNER

CLOUDS = ("e2b", "modal", "daytona")


@dataclass(frozen=True)
class Backend:
    """One of them.

    Attributes:
        name: What an application calls it.
        emulator: What answers in its place; None is a real engine.
    """

    name: str
    emulator: Emulator | None

    async def alive(self) -> set[str]:
        """The ids of this run's sandboxes, by its own account."""
        if self.emulator is not None:
            return self.emulator.sandboxes()
        provider = providers.make(self.name)
        try:
            return {info.id async for info in provider.list({OWNER_LABEL: OWNER})}
        finally:
            await provider.aclose()


@pytest.fixture(params=("docker", *CLOUDS))
def backend(request: pytest.FixtureRequest, engine: str) -> Backend:
    """Each backend in turn; its environment is set, so that its name is all it takes."""
    return _backend(request.param, request.getfixturevalue)


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> Emulator:
    """Each emulated cloud in turn, without faults."""
    emulator = _backend(request.param, request.getfixturevalue).emulator
    assert emulator is not None
    emulator.faults.clear()
    return emulator


def _backend(name: str, fixture: Callable[[str], object]) -> Backend:
    if name == "docker":
        return Backend(name, None)
    emulator = fixture(name)
    assert isinstance(emulator, Emulator)
    return Backend(name, emulator)
