"""What goes wrong at Daytona: the typed error or the recovery, and nothing left."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
import pytest_asyncio

from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ConnectionLostError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
)
from sandboxkit.ownership import owned
from sandboxkit.providers.base import ByteChannel, Command
from sandboxkit.providers.daytona import DaytonaProvider, v0
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import SandboxSpec
from tests.emulators.daytona import DaytonaEmulator
from tests.emulators.faults import Fault


@pytest_asyncio.fixture
async def provider(daytona: DaytonaEmulator) -> AsyncIterator[DaytonaProvider]:
    daytona.faults.clear()
    made = DaytonaProvider()
    yield made
    daytona.faults.clear()
    await made.aclose()
    assert daytona.sandboxes() == set()


def new(**fields: object) -> SandboxSpec:
    return owned(SandboxSpec.build(None, **fields))


async def everything(channel: ByteChannel) -> bytes:
    """All of its stdout."""
    seen = b""
    while (output := await channel.receive()) is not None:
        seen += output.data if output.fd == 1 else b""
    return seen


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthenticationError),
        (403, AuthenticationError),
        (429, CapacityError),
        (500, ProviderUnavailableError),
        (503, ProviderUnavailableError),
    ],
)
async def test_a_refused_create_says_why(
    provider: DaytonaProvider, daytona: DaytonaEmulator, status: int, kind: type[SandboxError]
) -> None:
    daytona.faults.add(Fault("create", "refuse", status=status, retry_after=7))
    with pytest.raises(kind) as caught:
        await provider.create(new())
    assert daytona.key not in str(caught.value)
    if isinstance(caught.value, CapacityError):
        assert caught.value.retry_after_s == 7
    assert daytona.sandboxes() == set()


async def test_a_rate_limit_is_waited_for(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    daytona.faults.add(Fault("create", "refuse", times=2, status=429, retry_after=0.1))
    async with Sandbox.create(provider) as sandbox:
        assert daytona.sandboxes() == {sandbox.id}
    assert daytona.faults.calls["create"] == 3


async def test_a_create_that_fails_after_its_answer_leaves_nothing(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    daytona.faults.add(Fault("execute", "refuse", status=500))  # who is the user?
    with pytest.raises(ProviderUnavailableError):
        await provider.create(new())
    assert daytona.faults.calls["create"] == 1
    assert daytona.sandboxes() == set()


async def test_a_refused_build_is_told_and_can_be_repeated(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    before = daytona.snapshots()
    daytona.faults.add(Fault("build", "refuse", status=503))
    spec = new(image="debian:12.11")
    with pytest.raises(ProviderUnavailableError):
        await provider.prepare(spec)
    assert daytona.snapshots() == before
    await provider.prepare(spec)
    assert len(daytona.snapshots() - before) == 1


async def test_a_full_account_is_no_room(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    daytona.settings.cpu_quota = 0
    try:
        with pytest.raises(CapacityError, match="limit"):
            await provider.create(new())
    finally:
        daytona.settings.cpu_quota = None


async def test_a_create_whose_answer_is_lost_leaves_nothing(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    daytona.faults.add(Fault("create", "lose_answer"))
    with pytest.raises(ProviderUnavailableError):
        await provider.create(new())
    assert daytona.sandboxes() == set()


async def test_a_create_that_takes_too_long_leaves_nothing_for_long(
    provider: DaytonaProvider, daytona: DaytonaEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v0, "CREATE_S", 0.5)
    daytona.faults.add(Fault("create", "delay", seconds=1))
    with pytest.raises(OperationTimeoutError):
        await provider.create(new())
    with anyio.fail_after(30):
        while not daytona.sandboxes():
            await anyio.sleep(0.05)
        daytona.minute_s = 0.2
        while daytona.sandboxes():
            await anyio.sleep(0.05)
    daytona.minute_s = 60.0


@pytest.mark.parametrize("after", [0, 1, 5000, 70_000])
async def test_a_log_that_is_cut_is_taken_up_where_it_was(
    provider: DaytonaProvider, daytona: DaytonaEmulator, after: int
) -> None:
    handle = await provider.create(new())
    try:
        daytona.faults.add(Fault("output", "cut", times=2, after=after))
        channel = await handle.spawn(Command(("sh", "-c", "seq 1 20000; exit 4")))
        assert (await everything(channel)).split() == [b"%d" % n for n in range(1, 20_001)]
        assert await channel.wait() == 4
        await channel.aclose()
    finally:
        await handle.destroy()


async def test_a_log_that_is_refused_for_good_is_a_lost_connection(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    handle = await provider.create(new())
    try:
        daytona.faults.add(Fault("output", "refuse", times=100, status=503))
        channel = await handle.spawn(Command(("true",)))
        with anyio.fail_after(30), pytest.raises(ConnectionLostError):
            await everything(channel)
        await channel.aclose()
    finally:
        daytona.faults.clear()
        await handle.destroy()


# Has the service's reader of stdout end after the program, with what it has not read.
_LOSE = """
pkill -STOP -f '^cat out'
echo lost
(while kill -0 $PPID; do sleep 0.05; done; pkill -KILL -f '^cat out') >/dev/null 2>&1 &
"""


async def test_a_log_without_its_end_is_no_output(provider: DaytonaProvider) -> None:
    handle = await provider.create(new())
    try:
        channel = await handle.spawn(Command(("sh", "-c", _LOSE)))
        with anyio.fail_after(30), pytest.raises(ConnectionLostError, match="end of its output"):
            await everything(channel)
        await channel.aclose()
    finally:
        await handle.destroy()


async def test_what_a_killed_shell_has_said_is_all_there_is(provider: DaytonaProvider) -> None:
    handle = await provider.create(new())
    try:
        channel = await handle.spawn(Command(("sh", "-c", "echo said; kill -KILL $PPID")))
        with anyio.fail_after(30):
            assert await everything(channel) == b"said\n"
            assert await channel.wait() == 137
        await channel.aclose()
    finally:
        await handle.destroy()


async def test_a_log_that_falls_silent_is_noticed(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    daytona.faults.add(Fault("output", "stall", after=50_000))
    async with Sandbox.create(provider, lease_s=4) as sandbox:
        with anyio.fail_after(60):
            assert len((await sandbox.sh("seq 1 50000")).text.split()) == 50_000


@pytest.mark.parametrize("op", ["input", "output", "start", "session"])
async def test_a_connection_that_breaks_is_made_anew(
    provider: DaytonaProvider, daytona: DaytonaEmulator, op: str
) -> None:
    async with Sandbox.create(provider) as sandbox:
        daytona.faults.add(Fault(op, "refuse", times=2, status=503))
        daytona.faults.add(Fault("input", "refuse", status=503))
        assert (await sandbox.sh("cat; exit 5", stdin=b"over\n")).exit_code == 5


async def test_input_that_is_too_late_is_a_lost_connection(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    handle = await provider.create(new())
    try:
        channel = await handle.spawn(Command(("true",)))
        assert await channel.wait() == 0
        with pytest.raises(ConnectionLostError):
            await channel.send(b"anybody there?\n")
        await channel.send_eof()
        await channel.aclose()
    finally:
        await handle.destroy()
    assert daytona.sandboxes() == set()


async def test_a_sandbox_that_has_ended_says_so(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    handle = await provider.create(new(ports=(8000,)))
    channel = await handle.spawn(Command(("sleep", "60")))
    await anyio.to_thread.run_sync(daytona.end_now, handle.info.id)
    with pytest.raises(ConnectionLostError), anyio.fail_after(30):
        await channel.send(b"x\n")
    assert await channel.wait() is None
    await channel.aclose()
    for use in (
        handle.spawn(Command(("true",))),
        handle.renew(60),
        handle.expose(8000),
        handle.snapshot("gone"),
    ):
        with pytest.raises(SandboxDiedError):
            await use
    await handle.destroy()


async def test_a_sandbox_whose_time_is_over_says_so(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    handle = await provider.create(new())
    daytona.minute_s = 0.1
    try:
        with anyio.fail_after(30):
            while daytona.sandboxes():
                await anyio.sleep(0.05)
    finally:
        daytona.minute_s = 60.0
    with pytest.raises(SandboxDiedError):
        await handle.spawn(Command(("true",)))
    with pytest.raises(SandboxNotFoundError):
        await provider.attach(handle.info.id)
    await handle.destroy()


@pytest.mark.parametrize("op", ["get", "list", "renew", "snapshot", "expose"])
@pytest.mark.parametrize(
    ("status", "kind"), [(429, CapacityError), (503, ProviderUnavailableError)]
)
async def test_a_refused_call_is_told_and_can_be_repeated(
    provider: DaytonaProvider,
    daytona: DaytonaEmulator,
    op: str,
    status: int,
    kind: type[SandboxError],
) -> None:
    handle = await provider.create(new(ports=(8000,)))

    async def call() -> None:
        match op:
            case "get":
                await provider.attach(handle.info.id)
            case "list":
                assert [info.id async for info in provider.list({})] == [handle.info.id]
            case "renew":
                await handle.renew(60)
            case "expose":
                await handle.expose(8000)
            case _:
                await provider.remove_snapshot(await handle.snapshot("refused"))

    try:
        daytona.faults.add(Fault(op, "refuse", status=status))
        with pytest.raises(kind):
            await call()
        await call()
    finally:
        await handle.destroy()


async def test_a_refused_destroy_is_told_and_can_be_repeated(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    handle = await provider.create(new())
    daytona.faults.add(Fault("destroy", "refuse", status=503))
    with pytest.raises(ProviderUnavailableError):
        await handle.destroy()
    await handle.destroy()
    await handle.destroy()
