"""What the tests of the emulator share: an account, a client, an image, sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import modal
import pytest

from tests.emulators.modal import ModalEmulator
from tests.emulators.modal.driving import APP, Create, registry, sandboxes


@pytest.fixture(scope="module")
def cloud(engine: str) -> Iterator[ModalEmulator]:
    with ModalEmulator(engine) as emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        yield emulator


@pytest.fixture
async def client(cloud: ModalEmulator) -> AsyncIterator[Any]:
    client = await modal.Client.from_credentials.aio(
        cloud.tokens.token_id, cloud.tokens.token_secret
    )
    yield client
    cloud.faults.clear()
    await client.close.aio()


@pytest.fixture
async def app(client: Any) -> Any:
    return await modal.App.lookup.aio(APP, client=client, create_if_missing=True)


@pytest.fixture
async def image(app: Any) -> Any:
    return await registry("debian:stable").build.aio(app)


@pytest.fixture
async def create(cloud: ModalEmulator, app: Any, image: Any, client: Any) -> AsyncIterator[Create]:
    made: list[Any] = []

    async def create(*command: str, **options: Any) -> Any:
        options = {"image": image, "timeout": 300, "block_network": True, **options}
        made.append(await sandboxes.create.aio(*command, app=app, client=client, **options))
        return made[-1]

    yield create
    cloud.faults.clear()
    for sandbox in made:
        await sandbox.terminate.aio()
        await sandbox.detach.aio()
    assert not cloud.sandboxes()
