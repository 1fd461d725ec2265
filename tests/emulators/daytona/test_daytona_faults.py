"""What tests make go wrong at the emulated Daytona."""

from __future__ import annotations

import asyncio

import daytona
import pytest
from daytona import (
    AsyncDaytona,
    AsyncSandbox,
    CreateSandboxFromSnapshotParams,
    SandboxState,
)

from tests.emulators.daytona import DaytonaEmulator
from tests.emulators.daytona.driving import Create, Log, eventually, is_gone, run
from tests.emulators.faults import Fault


async def test_a_rate_limit_names_its_counter_in_the_headers(
    cloud: DaytonaEmulator, create: Create
) -> None:
    cloud.faults.add(Fault("create", "refuse", status=429, retry_after=7))
    with pytest.raises(daytona.DaytonaRateLimitError) as caught:
        await create()
    assert caught.value.headers["Retry-After-sandbox-create"] == "7"
    assert "Retry-After" not in caught.value.headers
    assert cloud.faults.calls["create"] == 1


async def test_an_outage_is_an_error_of_the_service(cloud: DaytonaEmulator, create: Create) -> None:
    cloud.faults.add(Fault("create", "refuse", status=503))
    with pytest.raises(daytona.DaytonaServiceUnavailableError):
        await create()
    assert (await create()).state == SandboxState.STARTED.value


async def test_a_lost_answer_leaves_the_sandbox(
    cloud: DaytonaEmulator, client: AsyncDaytona, create: Create
) -> None:
    cloud.faults.add(Fault("create", "lose_answer"))
    with pytest.raises(daytona.DaytonaConnectionError):
        await create(name="lost")
    found = await client.get("lost")
    await client.delete(found, wait=True)


async def test_a_delayed_answer_comes_after_the_time_out(
    cloud: DaytonaEmulator, client: AsyncDaytona
) -> None:
    cloud.faults.add(Fault("create", "delay", seconds=2.0))
    params = CreateSandboxFromSnapshotParams(name="late")
    with pytest.raises(daytona.DaytonaTimeoutError):
        await client.create(params, timeout=1)

    async def has_come() -> bool:
        return not await is_gone(client, "late")

    await eventually(has_come)
    await client.delete(await client.get("late"), wait=True)


async def test_a_log_is_cut_or_falls_silent_at_a_byte(
    cloud: DaytonaEmulator, box: AsyncSandbox, session: str
) -> None:
    command = await run(box, session, "echo 0123456789")
    cloud.faults.add(Fault("output", "refuse", status=502))
    cloud.faults.add(Fault("output", "cut", after=8))
    cloud.faults.add(Fault("output", "stall", after=8))
    for _ in ("refuse", "cut"):
        log = Log(box, session, command.cmd_id)
        with pytest.raises(daytona.DaytonaError):
            await log.end()
    assert log.out == "01234"  # behind three bytes of marker
    log = Log(box, session, command.cmd_id)
    await log.until("012")
    await asyncio.wait({log.reading}, timeout=0.2)
    assert not log.reading.done()
    await log.aclose()
    log = Log(box, session, command.cmd_id)
    await log.end()
    assert log.out == "0123456789\n"


async def test_an_early_end_breaks_what_is_connected(
    cloud: DaytonaEmulator, client: AsyncDaytona, create: Create
) -> None:
    sandbox = await create()
    await sandbox.process.create_session("s")
    command = await run(sandbox, "s", "echo ready; sleep 1000")
    log = Log(sandbox, "s", command.cmd_id)
    await log.until("ready")
    await asyncio.to_thread(cloud.end_now, sandbox.id)
    with pytest.raises(daytona.DaytonaError):
        await log.end()
    assert await is_gone(client, sandbox.id)
    with pytest.raises(daytona.DaytonaNotFoundError):
        await sandbox.process.exec("true")


async def test_it_stops_while_all_is_in_use(engine: str) -> None:
    emulator = DaytonaEmulator(engine)
    await asyncio.to_thread(emulator.__enter__)
    key, url = emulator.key, f"{emulator.url}/api"
    client = AsyncDaytona(daytona.DaytonaConfig(api_key=key, api_url=url, target="us"))
    sandbox = await client.create()
    await sandbox.process.create_session("s")
    command = await run(sandbox, "s", "echo ready; sleep 1000")
    log = Log(sandbox, "s", command.cmd_id)
    await log.until("ready")
    await asyncio.to_thread(emulator.__exit__, None, None, None)
    with pytest.raises(daytona.DaytonaError):
        await log.end()
    await client.close()  # type: ignore[no-untyped-call]
    assert not emulator.sandboxes()
