"""What a test makes go wrong at the emulated E2B, as the unmodified SDK sees it."""

from __future__ import annotations

import asyncio
import uuid

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    RateLimitException,
    SandboxNotRunningException,
    SandboxUnreachableException,
    ServiceBusyException,
)

from tests.emulators.e2b import E2BEmulator
from tests.emulators.faults import Fault
from tests.emulators.test_e2b_emulator import Create, create, listed, run, sandbox

__all__ = ["create", "sandbox"]  # fixtures


@pytest.fixture(autouse=True)
def _no_faults_are_left(e2b: E2BEmulator) -> None:
    e2b.faults.clear()


async def test_a_refused_call_says_when_to_come_back(e2b: E2BEmulator, create: Create) -> None:
    e2b.faults.add(Fault("create", "refuse", status=429, retry_after=7))
    with pytest.raises(RateLimitException):
        await create(retries=0)
    e2b.faults.add(Fault("create", "refuse", status=503))
    with pytest.raises(ServiceBusyException):
        await create(retries=0)
    assert e2b.faults.calls["create"] == 2
    async with httpx.AsyncClient(base_url=e2b.url) as client:
        e2b.faults.add(Fault("list", "refuse", status=429, retry_after=7))
        refused = await client.get("/v2/sandboxes")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")


async def test_an_answer_is_lost_and_the_work_done(e2b: E2BEmulator) -> None:
    mark = {"run": uuid.uuid4().hex}
    e2b.faults.add(Fault("create", "lose_answer"))
    with pytest.raises(httpx.TransportError):
        await AsyncSandbox.create(timeout=60, allow_internet_access=False, metadata=mark)
    (lost,) = await listed(metadata=mark)
    assert e2b.faults.calls["create"] == 1
    assert await AsyncSandbox.kill(lost)


async def test_a_stream_is_cut_after_so_many_bytes(e2b: E2BEmulator, sandbox: AsyncSandbox) -> None:
    e2b.faults.add(Fault("output", "cut", after=5_000))
    said: list[str] = []
    program = await sandbox.commands.run(
        "while echo 0123456789; do sleep 0.001; done",
        background=True,
        timeout=0,
        on_stdout=said.append,
    )
    with pytest.raises(SandboxUnreachableException):
        await program.wait()
    assert 0 < len("".join(said)) < 5_000
    assert await sandbox.commands.kill(program.pid)


async def test_a_stream_falls_silent(e2b: E2BEmulator, sandbox: AsyncSandbox) -> None:
    e2b.faults.add(Fault("output", "stall", after=2_000))
    said: list[str] = []
    program = await sandbox.commands.run(
        "seq 100000; touch /tmp/end", background=True, timeout=0, on_stdout=said.append
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await asyncio.shield(program.wait())
    assert len("".join(said)) < 2_000
    await program.disconnect()
    await run(sandbox, "until [ -e /tmp/end ]; do sleep 0.05; done")


async def test_a_program_is_refused(e2b: E2BEmulator, sandbox: AsyncSandbox) -> None:
    e2b.faults.add(Fault("start", "refuse", status="resource_exhausted"))
    with pytest.raises(RateLimitException):
        await run(sandbox, "true")
    assert await run(sandbox, "echo again") == "again\n"


async def test_somebody_else_ends_it(e2b: E2BEmulator, sandbox: AsyncSandbox) -> None:
    program = await sandbox.commands.run("exec sleep 60", background=True, timeout=0)
    e2b.end_now(sandbox.sandbox_id)
    with pytest.raises(SandboxNotRunningException):
        await program.wait()


async def test_it_stops_with_streams_open(engine: str) -> None:
    with E2BEmulator(engine) as emulator:
        sandbox = await AsyncSandbox.create(
            timeout=60,
            allow_internet_access=False,
            api_url=emulator.url,
            sandbox_url=emulator.url,
            api_key=emulator.key,
        )
        emulator.faults.add(Fault("output", "stall", after=10))
        stalled = asyncio.create_task(sandbox.commands.run("true", timeout=0, request_timeout=0))
        while not emulator.faults.calls["output"]:  # the next program is not to stall
            await asyncio.sleep(0.01)
        program = await sandbox.commands.run("exec cat", background=True, stdin=True, timeout=0)
        await program.send_stdin("x")
    assert emulator.sandboxes() == set()
    await asyncio.gather(stalled, program.wait(), return_exceptions=True)
