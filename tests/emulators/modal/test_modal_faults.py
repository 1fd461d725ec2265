"""What tests make go wrong at the emulated Modal."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import modal
import modal.exception
import pytest
from modal_proto import api_pb2 as api

from tests.emulators.faults import Fault
from tests.emulators.modal import ModalEmulator
from tests.emulators.modal.driving import OFTEN, Create, sh, terminate_all


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("UNAVAILABLE", modal.exception.ServiceError),
        ("INTERNAL", modal.exception.InternalError),
        (429, modal.exception.ResourceExhaustedError),
        ("PERMISSION_DENIED", modal.exception.PermissionDeniedError),
    ],
)
async def test_refusing_to_create(
    cloud: ModalEmulator, create: Create, status: int | str, error: type[Exception]
) -> None:
    cloud.faults.add(Fault("create", "refuse", times=OFTEN, status=status))
    with pytest.raises(error, match="refused"):
        await create()
    assert not cloud.sandboxes()


async def test_refusing_for_a_while(cloud: ModalEmulator, create: Create) -> None:
    cloud.faults.clear()
    cloud.faults.add(Fault("create", "refuse", status=429, retry_after=0.3))
    started = time.monotonic()
    await create()
    assert cloud.faults.calls["create"] == 2
    assert time.monotonic() - started > 0.3


async def test_delaying(cloud: ModalEmulator, create: Create) -> None:
    cloud.faults.add(Fault("create", "delay", seconds=5))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await create()


async def test_a_lost_answer_is_asked_for_again_and_the_same(
    cloud: ModalEmulator, create: Create
) -> None:
    cloud.faults.add(Fault("create", "lose_answer"))
    sandbox = await create()
    assert cloud.sandboxes() == {sandbox.object_id}


async def test_a_lost_answer_leaves_two_if_answers_are_not_kept(
    cloud: ModalEmulator, create: Create, app: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.wire, "keeps_answers", False)
    cloud.faults.add(Fault("create", "lose_answer"))
    await create()
    assert len(cloud.sandboxes()) == 2
    await terminate_all(app, client)


async def test_an_answer_that_is_lost_for_good_leaves_a_sandbox(
    cloud: ModalEmulator, create: Create, app: Any, client: Any
) -> None:
    cloud.faults.add(Fault("create", "lose_answer", times=OFTEN))
    with pytest.raises(Exception, match=r"[Cc]onnection lost"):
        await create()
    assert len(cloud.sandboxes()) == 1
    cloud.faults.clear()
    await terminate_all(app, client)


async def test_a_cancelled_create_leaves_a_sandbox(
    cloud: ModalEmulator, create: Create, app: Any, client: Any
) -> None:
    creating = asyncio.create_task(create())
    while not cloud.sandboxes():
        await asyncio.sleep(0.01)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await terminate_all(app, client)
    assert not cloud.sandboxes()


async def test_a_lost_answer_does_not_start_or_write_twice(
    cloud: ModalEmulator, create: Create
) -> None:
    sandbox = await create()
    await sh(sandbox, "true")
    cloud.faults.add(Fault("start", "lose_answer"))
    cloud.faults.add(Fault("input", "lose_answer"))
    assert await sh(sandbox, "echo x >> /count; cat; cat /count", stdin=b"once\n") == "once\nx\n"


@pytest.mark.parametrize("after", [0, 1, 100_000])
async def test_output_that_is_cut_goes_on_where_it_was(
    cloud: ModalEmulator, create: Create, after: int
) -> None:
    sandbox = await create()
    cloud.faults.add(Fault("output", "cut", times=3, after=after))
    said = await sh(sandbox, "seq 1 100000")
    assert said.split() == [str(number) for number in range(1, 100_001)]


@pytest.mark.slow
async def test_output_that_is_always_cut_fails(cloud: ModalEmulator, create: Create) -> None:
    sandbox = await create()
    process = await sandbox.exec.aio("echo", "x", text=False)
    cloud.faults.add(Fault("output", "cut", times=OFTEN))
    with pytest.raises(Exception, match=r"[Cc]onnection lost"):
        await process.stdout.read.aio()


async def test_output_that_stalls(cloud: ModalEmulator, create: Create) -> None:
    sandbox = await create()
    cloud.faults.add(Fault("output", "stall", after=3))
    process = await sandbox.exec.aio("echo", "abcdef", text=False)
    output = aiter(process.stdout)
    assert await anext(output) == b"abc"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await anext(output)


async def test_dropped_connections_lose_nothing(cloud: ModalEmulator, create: Create) -> None:
    sandbox = await create()
    process = await sandbox.exec.aio("cat", text=False)
    output = aiter(process.stdout)
    for number in range(10):
        process.stdin.write(b"%d\n" % number)
        await process.stdin.drain.aio()
        cloud.drop_connections()
        assert await anext(output) == b"%d\n" % number
    process.stdin.write_eof()
    await process.stdin.drain.aio()
    assert await process.wait.aio() == 0


async def test_a_sandbox_that_is_ended_from_outside(cloud: ModalEmulator, create: Create) -> None:
    sandbox = await create()
    cloud.end_now(sandbox.object_id)
    assert not cloud.sandboxes()
    with pytest.raises(modal.exception.NotFoundError):
        await sandbox.exec.aio("true")
    with pytest.raises(modal.exception.SandboxTimeoutError):
        await sandbox.wait.aio()


async def test_calls_are_counted_and_sandboxes_can_be_looked_at(
    cloud: ModalEmulator, create: Create
) -> None:
    cloud.faults.clear()
    sandbox = await create(cpu=(0.5, 1.0), tags={"a": "b"}, timeout=77)
    assert cloud.faults.calls["create"] == 1
    asked = cloud.sandbox(sandbox.object_id)
    assert asked.tags == {"a": "b"}
    assert asked.definition.timeout_secs == 77
    assert asked.definition.network_access.network_access_type == api.NetworkAccess.BLOCKED


async def test_starting_and_stopping(engine: str) -> None:
    for _ in range(3):
        with ModalEmulator(engine) as emulator:
            assert emulator.url.startswith("http://127.0.0.1:")
