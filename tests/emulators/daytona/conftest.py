"""What the tests of the emulator share: an account, a client, sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import daytona
import pytest
from daytona import AsyncDaytona, AsyncSandbox, CreateSandboxFromSnapshotParams

from tests.emulators.daytona.driving import ENOUGH_S, SHARED, Create
from tests.emulators.daytona.emulator import DaytonaEmulator


@pytest.fixture(scope="module")
def cloud(engine: str) -> Iterator[DaytonaEmulator]:
    with DaytonaEmulator(engine) as emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        yield emulator


@pytest.fixture
async def client(cloud: DaytonaEmulator) -> AsyncIterator[AsyncDaytona]:
    cloud.settings.log_tail_s = 0.0
    client = AsyncDaytona()
    yield client
    cloud.faults.clear()
    cloud.settings.reset()
    await client.close()  # type: ignore[no-untyped-call]


@pytest.fixture
async def create(client: AsyncDaytona, cloud: DaytonaEmulator) -> AsyncIterator[Create]:
    """Make sandboxes for one test."""
    made: list[AsyncSandbox] = []

    async def create(**options: Any) -> AsyncSandbox:
        options = {"auto_stop_interval": 0, **options}
        params = CreateSandboxFromSnapshotParams(**options)
        made.append(await client.create(params, timeout=ENOUGH_S))
        return made[-1]

    yield create
    cloud.faults.clear()
    for sandbox in made:
        if sandbox.id in cloud.sandboxes():
            await client.delete(sandbox, wait=True)


@pytest.fixture
async def box(client: AsyncDaytona) -> AsyncSandbox:
    """A sandbox that the tests of a module share."""
    try:
        return await client.get(SHARED)
    except daytona.DaytonaNotFoundError:
        params = CreateSandboxFromSnapshotParams(name=SHARED, auto_stop_interval=0)
        return await client.create(params)


@pytest.fixture
async def session(box: AsyncSandbox, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    name = str(request.node.name)
    await box.process.create_session(name)
    yield name
    try:
        await box.process.delete_session(name)
    except daytona.DaytonaNotFoundError:
        return
