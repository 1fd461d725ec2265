"""What E2B may do wrong: the typed error or the recovery, and nothing left."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ConnectionLostError,
    ImageError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.progress import Progress, listening
from sandboxkit.providers.base import Command
from sandboxkit.providers.e2b import E2BProvider
from sandboxkit.providers.e2b import provider as verbs
from sandboxkit.spec import EXPIRES_LABEL, Artifact
from tests.emulators.e2b import E2BEmulator
from tests.emulators.faults import Fault
from tests.providers.conftest import MakeSpec, run
from tests.providers.test_e2b import send_on

SDK_TRIES = 4  # of what is not a creation


@pytest.fixture
async def provider(e2b: E2BEmulator) -> AsyncIterator[E2BProvider]:
    e2b.faults.clear()
    provider = E2BProvider(creates_per_s=None)
    yield provider
    e2b.faults.clear()
    await nothing_left(e2b)  # whatever went wrong
    await provider.aclose()


async def nothing_left(e2b: E2BEmulator) -> None:
    with anyio.fail_after(20):
        while e2b.sandboxes():
            await asyncio.sleep(0.05)


# creations


async def test_capacity_is_told_with_the_time_to_wait(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    """The SDK keeps no header of a refusal: this is the seam that finds it all the same."""
    e2b.faults.add(Fault("create", "refuse", status=429, retry_after=7.0))
    with pytest.raises(CapacityError) as caught:
        await provider.create(make_spec())
    assert (caught.value.retry_after_s, caught.value.retryable) == (7.0, True)
    assert e2b.sandboxes() == set()


async def test_a_short_wait_is_waited_for(e2b: E2BEmulator, provider: E2BProvider) -> None:
    e2b.faults.add(Fault("create", "refuse", status=429, retry_after=1.0))
    async with sk.Sandbox.create(provider) as sandbox:
        assert e2b.sandboxes() == {sandbox.id}
    assert e2b.faults.calls["create"] == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("create", "refuse", status=429), CapacityError),
        (Fault("create", "refuse", status=503, retry_after=3.0), CapacityError),
        (Fault("create", "refuse", status=503), ProviderUnavailableError),
        (Fault("create", "refuse", status=500), ProviderUnavailableError),
        (Fault("create", "refuse", status=502), ProviderUnavailableError),
        (Fault("create", "refuse", status=504), ProviderUnavailableError),
        (Fault("create", "refuse", status=401), AuthenticationError),
        (Fault("create", "refuse", status=403), ImageError),
        (Fault("create", "refuse", status=404), ImageError),
        (Fault("create", "refuse", status=400), UnsupportedError),
        (Fault("create", "refuse", status=418), SandboxError),
    ],
)
async def test_a_refused_creation_is_a_typed_error(
    e2b: E2BEmulator,
    provider: E2BProvider,
    make_spec: MakeSpec,
    fault: Fault,
    kind: type[SandboxError],
) -> None:
    e2b.faults.add(fault)
    with pytest.raises(kind) as caught:
        await provider.create(make_spec())
    assert (type(caught.value), caught.value.provider, caught.value.op) == (kind, "e2b", "create")
    assert "E2B" in caught.value.message
    assert e2b.faults.calls["create"] == 1, "the SDK has tried again by itself"
    assert e2b.sandboxes() == set()


@pytest.mark.parametrize("kind", ["refuse", "lose_answer"])
async def test_a_creation_that_fails_in_its_second_half_leaves_nothing(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec, kind: str
) -> None:
    e2b.faults.add(Fault("get", kind, times=SDK_TRIES, status=500))  # type: ignore[arg-type]
    with pytest.raises(ProviderUnavailableError):
        await provider.create(make_spec())
    assert e2b.sandboxes() == set()


async def test_a_creation_whose_answer_was_lost_leaves_nothing(
    e2b: E2BEmulator, provider: E2BProvider
) -> None:
    e2b.faults.add(Fault("create", "lose_answer", times=5))
    with pytest.raises(ProviderUnavailableError):
        await sk.Sandbox.create(provider)


async def test_a_creation_that_is_too_slow_leaves_nothing(
    e2b: E2BEmulator, provider: E2BProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await provider.prepare(sk.SandboxSpec())
    monkeypatch.setattr(verbs, "_CREATE_S", 1.0)
    e2b.faults.add(Fault("create", "delay", seconds=2.0))
    with pytest.raises(OperationTimeoutError):
        await sk.Sandbox.create(provider)


# no service there


async def test_where_nobody_listens_it_is_an_outage(make_spec: MakeSpec) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    provider = E2BProvider(api_key="e2b_x", api_url=f"http://127.0.0.1:{port}")
    with pytest.raises(ProviderUnavailableError):
        await provider.create(make_spec())
    with pytest.raises(ProviderUnavailableError):
        await provider.attach("i0")


async def test_a_name_that_does_not_resolve_is_an_outage(make_spec: MakeSpec) -> None:
    provider = E2BProvider(api_key="e2b_x", api_url="http://no-such-host.invalid")
    with pytest.raises(ProviderUnavailableError):
        await provider.create(make_spec())


@pytest.fixture
def gateway() -> Iterator[str]:
    """What answers each request with a page, as a broken gateway does."""
    page = b"<html>Bad gateway</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.recv(65536)
                peer.sendall(head + b"Content-Length: %d\r\n\r\n" % len(page) + page)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


async def test_a_page_in_place_of_an_answer_is_an_outage(gateway: str) -> None:
    """The SDK raises a bare `JSONDecodeError`."""
    provider = E2BProvider(api_key="e2b_x", api_url=gateway)
    with pytest.raises(ProviderUnavailableError):
        await provider.attach("i0")


# in use


@pytest.mark.parametrize("op", ["renew", "destroy", "list", "get", "pause", "snapshot"])
async def test_a_passing_outage_is_got_over(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec, op: str
) -> None:
    handle = await provider.create(make_spec())
    e2b.faults.add(Fault(op, "refuse", status=503))
    await handle.renew(20)
    [info async for info in provider.list({})]
    again = await provider.attach(handle.info.id)
    if op == "snapshot":
        await provider.remove_snapshot(await again.snapshot("kept"))
    if op == "pause":
        await again.pause()
    await handle.destroy()
    assert e2b.sandboxes() == set()


@pytest.mark.parametrize("status", [500, 401, 429])
async def test_a_lasting_refusal_is_a_typed_error(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec, status: int
) -> None:
    kinds = {500: ProviderUnavailableError, 401: AuthenticationError, 429: CapacityError}
    handle = await provider.create(make_spec())
    e2b.faults.clear()
    for op in ("renew", "list", "get", "pause", "destroy"):
        e2b.faults.add(Fault(op, "refuse", status=status, times=SDK_TRIES))
    calls: tuple[Callable[[], Awaitable[None]], ...] = (
        lambda: handle.renew(20),
        handle.pause,
        handle.destroy,
    )
    for call in calls:
        with pytest.raises(kinds[status]) as caught:
            await call()
        assert caught.value.sandbox_id == handle.info.id
    with pytest.raises(kinds[status]):
        [info async for info in provider.list({})]
    with pytest.raises(kinds[status]):
        await provider.attach(handle.info.id)
    e2b.faults.clear()
    await handle.destroy()


async def test_a_sandbox_that_e2b_has_ended_is_told(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    channel = await handle.spawn(Command(("sh", "-c", "echo up; sleep 600")))
    assert await channel.receive() is not None
    e2b.end_now(handle.info.id)
    with anyio.fail_after(20), pytest.raises(ConnectionLostError):
        await channel.receive()
    assert await channel.wait() is None
    await channel.aclose()
    for use in (handle.spawn(Command(("true",))), handle.renew(20), handle.pause()):
        with pytest.raises(SandboxDiedError):
            await use
    with pytest.raises(SandboxNotFoundError):
        await provider.attach(handle.info.id)
    await handle.destroy()
    await handle.destroy()


async def test_a_sandbox_whose_time_is_over_is_told(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    over = {EXPIRES_LABEL: "2025-12-31T23:59:51+00:00"}  # its life-time: a second, with the margin
    spec = spec.model_copy(update={"labels": {**spec.labels, **over}})
    handle = await provider.create(spec)
    channel = await handle.spawn(Command(("sleep", "600")))
    await handle.renew(60)
    with anyio.fail_after(20), pytest.raises(ConnectionLostError):
        await channel.receive()
    await channel.aclose()
    await nothing_left(e2b)
    with pytest.raises(SandboxDiedError):
        await handle.renew(60)
    with pytest.raises(SandboxDiedError):
        await handle.spawn(Command(("true",)))
    with pytest.raises(SandboxNotFoundError):
        await provider.attach(handle.info.id)


async def test_a_cancelled_call_is_always_told_so(
    provider: E2BProvider, make_spec: MakeSpec
) -> None:
    """The SDK drops a cancellation that comes together with the answer: one in four of these."""
    handle = await provider.create(make_spec())

    async def renew_for_ever() -> None:
        while True:
            await handle.renew(60)
            await asyncio.sleep(0.001)

    for number in range(100):
        renewing = asyncio.ensure_future(renew_for_ever())
        await asyncio.sleep(number * 0.0001)
        renewing.cancel()
        await asyncio.wait({renewing}, timeout=2.0)
        assert renewing.cancelled(), f"it goes on (after {number} cancellations)"
    await handle.destroy()


@pytest.mark.parametrize("after", [0, 1, 5000, 1_000_000])
async def test_output_that_is_cut_is_a_lost_connection(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec, after: int
) -> None:
    handle = await provider.create(make_spec())
    e2b.faults.add(Fault("output", "cut", after=after))
    sizes: list[int] = []

    async def receive_all() -> None:
        channel = await handle.spawn(Command(("sh", "-c", "yes | head -c 4000000")))
        try:
            while (output := await channel.receive()) is not None:
                sizes.append(len(output.data))
        finally:
            await channel.aclose()

    with anyio.fail_after(30), pytest.raises((ConnectionLostError, ProviderUnavailableError)):
        await receive_all()
    assert sum(sizes) <= after
    assert await run(handle, "echo", "well") == "well\n"
    await handle.destroy()


async def test_a_command_goes_on_over_a_connection_that_was_cut(
    e2b: E2BEmulator, provider: E2BProvider
) -> None:
    e2b.faults.add(Fault("output", "cut", after=200_000))
    async with sk.Sandbox.create(provider) as sandbox:
        result = await sandbox.sh("yes 0123456789 | head -c 2000000")
        assert result.stdout == (b"0123456789\n" * 200_000)[:2_000_000]


async def test_a_connection_that_falls_silent_is_given_up_and_made_again(
    e2b: E2BEmulator, provider: E2BProvider
) -> None:
    """No read of the SDK's has a time-out: the channel's own watch notices."""
    e2b.faults.add(Fault("output", "stall", after=200_000))
    async with sk.Sandbox.create(provider, lease_s=4) as sandbox:
        with anyio.fail_after(60):
            result = await sandbox.sh("yes 0123456789 | head -c 2000000")
        assert len(result.stdout) == 2_000_000


@pytest.mark.parametrize("status", ["unavailable", "internal", "resource_exhausted"])
async def test_a_start_that_is_refused_is_a_typed_error(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec, status: str
) -> None:
    handle = await provider.create(make_spec())
    e2b.faults.add(Fault("start", "refuse", status=status))
    with pytest.raises(SandboxError) as caught:
        await handle.spawn(Command(("true",)))
    assert not isinstance(caught.value, SandboxDiedError | SandboxNotFoundError)
    assert await run(handle, "echo", "well") == "well\n"
    await handle.destroy()


async def test_a_start_that_is_cancelled_is_brought_to_its_end(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    e2b.faults.add(Fault("start", "delay", seconds=0.5))
    starting = asyncio.ensure_future(handle.spawn(Command(("sleep", "612.5"))))
    await asyncio.sleep(0.1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with anyio.fail_after(20):
        script = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 61[2].5'"
        while (await run(handle, "sh", "-c", f"{script} || true")).strip() != "0":
            await asyncio.sleep(0.05)
    await handle.destroy()


async def test_input_that_is_refused_is_a_lost_connection(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    e2b.faults.add(Fault("input", "refuse", status="unavailable"))
    channel = await handle.spawn(Command(("cat",)))
    with anyio.fail_after(20), pytest.raises(ConnectionLostError):
        await send_on(channel)
    await channel.aclose()
    await handle.destroy()


async def test_a_pause_that_takes_long_is_waited_for(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    beside = await provider.attach(handle.info.id)
    e2b.faults.add(Fault("pause", "delay", seconds=1.0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handle.pause)
        await anyio.sleep(0.3)
        await beside.pause()  # E2B says no more than that it is just changing
    assert (handle.info.state, beside.info.state) == ("paused", "paused")
    await handle.resume()
    assert await run(handle, "echo", "well") == "well\n"
    await handle.destroy()


# builds


async def test_a_build_that_fails_names_the_image(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    with pytest.raises(ImageError, match="localhost:1/no-such-image:7"):
        await provider.prepare(make_spec(image="localhost:1/no-such-image:7"))


@pytest.mark.parametrize(
    ("status", "kind"), [(500, ProviderUnavailableError), (429, CapacityError)]
)
async def test_a_build_that_is_refused_is_a_typed_error(
    e2b: E2BEmulator,
    provider: E2BProvider,
    make_spec: MakeSpec,
    status: int,
    kind: type[SandboxError],
) -> None:
    spec = make_spec(cpu=7, memory_gib=0.5)
    e2b.faults.add(Fault("build", "refuse", status=status, times=20))
    with pytest.raises(kind):
        await provider.prepare(spec)
    e2b.faults.clear()
    handle = await provider.create(spec)
    assert handle.info.effective.cpu == 7.0
    await handle.destroy()


async def test_a_build_that_is_cancelled_is_left_at_once_and_found_later(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec, tmp_path: Path
) -> None:
    tool = anyio.Path(tmp_path / "tool")
    await tool.write_text("#!/bin/sh\necho brought along\n")
    artifact = Artifact(
        name="tool",
        version="1",
        platform="linux-x86_64",
        source=tmp_path / "tool",
        target="/opt/tool/tool",
    )
    spec = make_spec(artifacts=(artifact,))
    steps: list[Progress] = []
    for seconds in (0.0, 0.05, 0.2, 0.6):
        with anyio.move_on_after(seconds):
            await provider.prepare(spec)
    with listening(steps.append):
        handle = await provider.create(spec)
    assert await run(handle, "/opt/tool/tool") == "brought along\n"
    assert await run(handle, "stat", "-c", "%U %a", "/opt/tool/tool") == "root 755\n"
    assert not steps or steps[-1].finished
    await handle.destroy()


async def test_an_artifact_for_another_machine_is_refused(
    e2b: E2BEmulator, provider: E2BProvider, tmp_path: Path
) -> None:
    artifact = Artifact(
        name="tool",
        version="1",
        platform="linux-aarch64",
        source=tmp_path / "tool",
        target="/opt/tool/tool",
    )
    with pytest.raises(UnsupportedError, match="linux-aarch64"):
        await sk.Sandbox.create(provider, artifacts=(artifact,))
    assert e2b.sandboxes() == set()
