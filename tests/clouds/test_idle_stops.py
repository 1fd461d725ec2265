"""The clouds' own idle stops are off: who is idle, and what then, is for sandboxkit to say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from sandboxkit.session import Session
from tests.emulators.emulator import Emulator
from tests.session.quiet import Quiet

if TYPE_CHECKING:
    from tests.emulators.daytona import DaytonaEmulator
    from tests.emulators.e2b import E2BEmulator
    from tests.emulators.modal import ModalEmulator

pytestmark = pytest.mark.timeout(300)

WEEK_S = 7 * 86_400.0
OURS: list[dict[str, Any]] = [{}, {"idle_timeout_s": 600.0}]


def session(cloud: Emulator, **fields: Any) -> Session:
    backend = type(cloud).__name__.removesuffix("Emulator").lower()
    return Session(backend, agent=Quiet(), **fields)


async def rested(cloud: Emulator, sandbox_id: str) -> None:
    await asyncio.to_thread(cloud.ask, cloud.rest(sandbox_id, WEEK_S))


@pytest.mark.parametrize("fields", OURS, ids=["ever", "idle"])
async def test_a_session_that_nobody_asks_anything_lives(
    cloud: Emulator, fields: dict[str, Any]
) -> None:
    """With a host, and without one for as long as it is kept."""
    name = f"n-{uuid4().hex[:12]}"
    async with session(cloud, name=name, keep_s=1800, **fields) as one:
        sandbox = one.sandbox.id
        await one.sandbox.files.write("notes", "kept")
        await rested(cloud, sandbox)
        assert await one.sandbox.files.read_text("notes") == "kept"
    for _ in range(5):  # the last of the host's requests may be just ending
        await rested(cloud, sandbox)
    async with session(cloud, name=name, **fields) as two:
        assert two.sandbox.id == sandbox
        assert await two.sandbox.files.read_text("notes") == "kept"
        await two.destroy()


@pytest.mark.parametrize("fields", OURS, ids=["ever", "idle"])
async def test_what_e2b_is_asked_for(e2b: E2BEmulator, fields: dict[str, Any]) -> None:
    """A time-out ends it, and no request to it ever wakes it."""
    async with session(e2b, **fields) as one:
        body = e2b.account.sandboxes[one.sandbox.id].body
        assert (body["autoPause"], body["autoResume"]) == (False, {"enabled": False})


@pytest.mark.parametrize("fields", OURS, ids=["ever", "idle"])
async def test_what_modal_is_asked_for(modal: ModalEmulator, fields: dict[str, Any]) -> None:
    async with session(modal, **fields) as one:
        assert not modal.sandbox(one.sandbox.id).definition.HasField("idle_timeout_secs")


@pytest.mark.parametrize("fields", OURS, ids=["ever", "idle"])
@pytest.mark.parametrize("virtual", [False, True], ids=["container", "machine"])
async def test_what_daytona_is_asked_for(
    daytona: DaytonaEmulator, fields: dict[str, Any], virtual: bool
) -> None:
    """It is never stopped nor paused; and if it stops none the less, it is gone, not archived."""
    from daytona import AsyncDaytona, CreateSnapshotParams

    async with AsyncDaytona() as client:
        if virtual:
            params = CreateSnapshotParams(name="vm", image="vm:1", sandbox_class="linux-vm")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
            await client.snapshot.create(params)
            fields = {**fields, "image": "snapshot:vm"}
        try:
            async with session(daytona, **fields) as one:
                made = await client.get(one.sandbox.id)
                assert made.auto_stop_interval == 0
                assert made.auto_pause_interval == 0
                assert made.auto_delete_interval == 0
        finally:
            if virtual:
                await client.snapshot.delete("vm")


async def put_off(ends_at: Callable[[], Awaitable[datetime]]) -> None:
    first = await ends_at()
    async with asyncio.timeout(30):
        while await ends_at() <= first:
            await asyncio.sleep(0.1)


async def test_the_end_at_e2b_is_put_off_while_the_host_lives(e2b: E2BEmulator) -> None:
    from e2b import AsyncSandbox

    async with session(e2b, lease_s=3) as one:
        sandbox = one.sandbox.id

        async def ends_at() -> datetime:
            return (await AsyncSandbox.get_info(sandbox)).end_at

        for _ in range(2):
            await put_off(ends_at)


async def test_the_end_at_daytona_is_put_off_while_the_host_lives(
    daytona: DaytonaEmulator,
) -> None:
    from daytona import AsyncDaytona

    async with AsyncDaytona() as client, session(daytona, lease_s=3) as one:
        sandbox = one.sandbox.id

        async def ends_at() -> datetime:
            told = (await client.get(sandbox)).auto_destroy_at
            assert told is not None
            return datetime.fromisoformat(told)

        for _ in range(2):
            await put_off(ends_at)
