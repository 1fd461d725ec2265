"""From an emulated cloud, in each kind of trouble, to a Docker engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import sandboxkit as sk
from sandboxkit.errors import AuthenticationError
from tests.emulators.emulator import Emulator
from tests.emulators.faults import Fault

OFTEN = 20  # an SDK may ask again by itself
STATUS: dict[str, dict[str, int | str]] = {
    "outage": {"e2b": 503, "modal": "UNAVAILABLE", "daytona": 503},
    "key": {"e2b": 401, "modal": "UNAUTHENTICATED", "daytona": 401},
    "rate": {"e2b": 429, "modal": "RESOURCE_EXHAUSTED", "daytona": 429},
}


@pytest.fixture(params=["e2b", "modal", "daytona"])
def cloud(request: pytest.FixtureRequest) -> Iterator[tuple[str, Emulator]]:
    emulator: Emulator = request.getfixturevalue(request.param)
    emulator.faults.clear()
    yield request.param, emulator
    emulator.faults.clear()


@pytest.mark.parametrize("trouble", ["outage", "rate", "lost answer"])
async def test_docker_takes_over(cloud: tuple[str, Emulator], trouble: str) -> None:
    name, emulator = cloud
    before = emulator.sandboxes()
    if trouble == "lost answer":
        emulator.faults.add(Fault("create", "lose_answer", times=OFTEN))
    else:
        status = STATUS[trouble][name]
        emulator.faults.add(Fault("create", "refuse", times=OFTEN, status=status))
    async with sk.Sandbox.create([name, "docker"]) as sandbox:
        assert sandbox.info.provider == "docker"
        assert emulator.sandboxes() <= before
    assert emulator.faults.calls["create"] > 0


async def test_a_bad_key_is_told_and_docker_is_not_asked(cloud: tuple[str, Emulator]) -> None:
    name, emulator = cloud
    emulator.faults.add(Fault("create", "refuse", times=OFTEN, status=STATUS["key"][name]))
    with pytest.raises(AuthenticationError):
        await sk.Sandbox.create([name, "docker"])
