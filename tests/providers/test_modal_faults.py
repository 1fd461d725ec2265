"""What Modal may do wrong: the typed error or the recovery, and nothing left."""

from __future__ import annotations

import asyncio
import gc
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ConnectionLostError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxDiedError,
    SandboxError,
)
from sandboxkit.providers.base import Command
from sandboxkit.providers.modal import ModalProvider, account, images
from sandboxkit.providers.modal import handle as handles
from sandboxkit.providers.modal import provider as verbs
from sandboxkit.providers.modal.handle import ModalHandle
from tests.emulators.faults import Fault
from tests.emulators.modal import ModalEmulator
from tests.providers.conftest import MakeSpec, output_of, run

SDK_TRIES = 4  # of a call that is refused as unavailable


@pytest.fixture
async def provider(modal: ModalEmulator) -> AsyncIterator[ModalProvider]:
    """Another one each time; whatever went wrong, nothing is left at the service."""
    modal.faults.clear()
    provider = ModalProvider()
    yield provider
    modal.faults.clear()
    await provider.aclose()
    with anyio.fail_after(20):
        while modal.sandboxes():
            await asyncio.sleep(0.05)


async def test_capacity_is_told_with_the_time_to_wait(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    modal.faults.add(Fault("create", "refuse", status="RESOURCE_EXHAUSTED", retry_after=77.0))
    with pytest.raises(CapacityError) as caught:
        await provider.create(make_spec())
    assert (caught.value.retry_after_s, caught.value.retryable) == (77.0, True)
    assert modal.sandboxes() == set()


async def test_a_short_throttle_is_waited_for(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    modal.faults.add(Fault("create", "refuse", status=429, retry_after=0.1))
    await (await provider.create(make_spec())).destroy()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("UNAVAILABLE", ProviderUnavailableError),
        ("INTERNAL", ProviderUnavailableError),
        ("UNKNOWN", ProviderUnavailableError),
        ("UNAUTHENTICATED", AuthenticationError),
        ("PERMISSION_DENIED", AuthenticationError),
        ("RESOURCE_EXHAUSTED", CapacityError),
        ("UNIMPLEMENTED", SandboxError),
    ],
)
@pytest.mark.parametrize("op", ["create", "list", "build", "lookup"])
async def test_a_refusal_is_a_typed_error(
    modal: ModalEmulator, provider: ModalProvider, op: str, status: str, kind: type[SandboxError]
) -> None:
    modal.faults.add(Fault(op, "refuse", status=status, times=SDK_TRIES))
    with pytest.raises(kind) as caught:
        await (_listed(provider) if op == "list" else sk.Sandbox.create(provider, wait_s=0))
    assert caught.value.provider == "modal"
    assert "Modal" in str(caught.value)
    assert modal.sandboxes() == set()


async def _listed(provider: ModalProvider) -> None:
    [info async for info in provider.list({})]


async def test_a_create_whose_answer_was_lost_is_taken_up(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    modal.faults.add(Fault("create", "lose_answer"))
    handle = await provider.create(make_spec())
    assert modal.sandboxes() == {handle.info.id}
    assert await run(handle, "echo", "well") == "well\n"
    await handle.destroy()


async def test_it_is_taken_up_by_its_name_where_the_service_has_forgotten_the_call(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    modal.wire.keeps_answers = False
    modal.faults.add(Fault("create", "lose_answer"))
    try:
        handle = await provider.create(make_spec())
    finally:
        modal.wire.keeps_answers = True
    assert modal.sandboxes() == {handle.info.id}
    await handle.destroy()


async def test_a_create_that_is_too_slow_leaves_nothing(
    modal: ModalEmulator, provider: ModalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sk.Sandbox.create(provider):
        pass  # the image is there from here on
    monkeypatch.setattr(verbs, "_CREATE_S", 1.0)
    modal.faults.add(Fault("create", "delay", seconds=2.0))
    with pytest.raises(OperationTimeoutError):
        await sk.Sandbox.create(provider)


@pytest.mark.parametrize(
    "slow",
    [
        ("lookup", account, "_CONNECT_S"),
        ("build", images, "_BUILD_S"),
        ("list", verbs, "_LIST_S"),
        ("get", verbs, "_ASK_S"),
        ("start", handles, "_START_S"),
        ("destroy", handles, "_END_S"),
    ],
    ids=lambda slow: slow[0],
)
async def test_a_call_that_is_too_slow_is_given_up(
    modal: ModalEmulator,
    provider: ModalProvider,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    slow: tuple[str, ModuleType, str],
) -> None:
    op, module, deadline = slow
    handle = await provider.create(make_spec())
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "lookup": lambda: ModalProvider().create(make_spec()),
        "build": lambda: provider.prepare(make_spec(image=f"python:{secrets.token_hex(4)}")),
        "list": lambda: _listed(provider),
        "get": lambda: provider.attach(handle.info.id),
        "start": lambda: handle.spawn(Command(("true",), user="root")),
        "destroy": handle.destroy,
    }
    late = ProviderUnavailableError if op == "lookup" else OperationTimeoutError
    with monkeypatch.context() as patch:
        patch.setattr(module, deadline, 0.2)
        modal.faults.add(Fault(op, "delay", seconds=3.0))
        with pytest.raises(late) as caught:
            await calls[op]()
    assert caught.value.provider == "modal"
    assert caught.value.retryable
    await handle.destroy()


async def test_where_nobody_listens_it_is_said_where(
    modal: ModalEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("MODAL_SERVER_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(account, "_CONNECT_S", 1.0)
    provider = ModalProvider()
    with pytest.raises(ProviderUnavailableError, match=f"127.0.0.1:{port}"):
        await sk.Sandbox.create(provider)
    await provider.aclose()


@pytest.mark.parametrize("after", [0, 1, 100_000, 3_000_000])
async def test_output_that_is_cut_goes_on_where_it_was(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec, after: int
) -> None:
    handle = await provider.create(make_spec())
    try:
        modal.faults.add(Fault("output", "cut", after=after, times=3))
        script = (
            "i=0; while [ $i -lt 60000 ]; do echo $i; i=$((i+1)); done; head -c 9000000 /dev/zero"
        )
        channel = await handle.spawn(Command(("sh", "-c", script), user="root"))
        stdout, stderr = await output_of(channel)
        assert stdout.rstrip(b"\0").split() == [b"%d" % number for number in range(60000)]
        assert stdout.count(b"\0") == 9_000_000
        assert stderr == b""
        assert await channel.wait() == 0
        await channel.aclose()
    finally:
        await handle.destroy()


@pytest.mark.parametrize("op", ["start", "input"])
async def test_an_answer_that_is_lost_does_nothing_twice(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec, op: str
) -> None:
    handle = await provider.create(make_spec())
    try:
        lost = modal.faults.add(Fault(op, "lose_answer", times=2))
        channel = await handle.spawn(
            Command(("sh", "-c", "echo begun >> /tmp/log; cat; cat /tmp/log"), user="root")
        )
        await channel.send(b"once\n")
        await channel.send_eof()
        assert await output_of(channel) == (b"once\nbegun\n", b"")
        assert await channel.wait() == 0
        await channel.aclose()
        assert lost.times == 0
    finally:
        await handle.destroy()


async def test_a_failure_that_nobody_waits_for_any_more_is_not_reported(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    reported: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, said: reported.append(said))
    handle = await provider.create(make_spec())
    try:
        channel = await handle.spawn(Command(("cat",), user="root"))
        modal.faults.add(Fault("input", "refuse", status="FAILED_PRECONDITION", times=2))
        sends = [asyncio.ensure_future(channel.send(b"something\n")) for _ in range(2)]
        await asyncio.sleep(0)  # they are under way
        for send in sends:
            send.cancel()
        await asyncio.wait(sends)
        with anyio.fail_after(30):
            while any(task.get_name() == "modal-stdin" for task in asyncio.all_tasks()):
                await asyncio.sleep(0.01)
        with pytest.raises(ConnectionLostError):  # whoever comes next is told
            await channel.send(b"more\n")
        await channel.aclose()
        del sends
        gc.collect()
    finally:
        await handle.destroy()
        loop.set_exception_handler(None)
    assert reported == []


async def test_a_close_ends_every_write_that_is_under_way(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    try:
        channel = await handle.spawn(Command(("cat",), user="root"))
        modal.faults.add(Fault("input", "delay", seconds=60.0))
        sends = [asyncio.ensure_future(channel.send(b"something\n")) for _ in range(2)]
        with anyio.fail_after(30):
            while not modal.faults.calls["input"]:
                await asyncio.sleep(0.01)
        for send in sends:
            send.cancel()
        await asyncio.wait(sends)
        await channel.aclose()
        assert not [each for each in asyncio.all_tasks() if each.get_name() == "modal-stdin"]
    finally:
        await handle.destroy()


async def test_output_that_falls_silent_is_noticed_and_taken_up_again(
    modal: ModalEmulator, provider: ModalProvider
) -> None:
    async with sk.Sandbox.create(provider, lease_s=3.0) as sandbox:
        before = modal.faults.calls["start"]
        async with await sandbox.spawn(["cat"], stdin=sk.PIPE) as process:
            modal.drop_connections()
            modal.faults.add(Fault("output", "stall"))
            await process.stdin.write(b"still there\n")
            with anyio.fail_after(60):
                assert await process.stdout.receive() == b"still there\n"
        assert modal.faults.calls["start"] > before


async def test_connections_that_break_are_not_noticed(
    modal: ModalEmulator, provider: ModalProvider
) -> None:
    async with (
        sk.Sandbox.create(provider) as sandbox,
        await sandbox.spawn(["cat"], stdin=sk.PIPE) as process,
    ):
        for number in range(20):
            if number % 4 == 0:
                modal.drop_connections()
            line, seen = b"%d\n" % number, b""
            await process.stdin.write(line)
            while len(seen) < len(line):
                seen += await process.stdout.receive()
            assert seen == line


@pytest.mark.parametrize("op", ["start", "input"])
async def test_a_refusal_by_the_sandboxs_machine_is_a_typed_error(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec, op: str
) -> None:
    handle = await provider.create(make_spec())
    try:
        modal.faults.add(Fault(op, "refuse", status="INTERNAL", times=2))
        assert await run(handle, "echo", "well", user="root") == "well\n", "the SDK tries again"
        modal.faults.clear()
        modal.faults.add(Fault(op, "refuse", status="RESOURCE_EXHAUSTED", retry_after=60))
        with pytest.raises(SandboxError) as caught:
            await _fed(handle)
        assert caught.value.provider == "modal"
    finally:
        modal.faults.clear()
        await handle.destroy()


async def _fed(handle: ModalHandle) -> None:
    channel = await handle.spawn(Command(("cat",), user="root"))
    try:
        await channel.send(b"x")
    finally:
        await channel.aclose()


@pytest.mark.parametrize(("expired", "code"), [(True, "expired"), (False, "killed")])
async def test_the_end_of_a_sandbox_is_told_with_its_reason(
    modal: ModalEmulator,
    provider: ModalProvider,
    make_spec: MakeSpec,
    expired: bool,
    code: str,
) -> None:
    handle = await provider.create(make_spec())
    channel = await handle.spawn(Command(("cat",), user="root"))
    modal.ask(modal.end(handle.info.id, expired=expired))
    with anyio.fail_after(30):
        assert await channel.wait() is None, "no exit code is invented"
    await channel.aclose()
    with pytest.raises(SandboxDiedError) as caught:
        await handle.spawn(Command(("true",), user="root"))
    assert caught.value.code == code
    await handle.destroy()


@pytest.mark.parametrize("expired", [True, False])
async def test_a_sandbox_in_use_that_modal_ends_is_told(
    modal: ModalEmulator, provider: ModalProvider, expired: bool
) -> None:
    async with sk.Sandbox.create(provider) as sandbox:
        running = asyncio.ensure_future(sandbox.exec(["sleep", "60"]))
        await sandbox.exec(["true"])
        modal.ask(modal.end(sandbox.id, expired=expired))
        with anyio.fail_after(30):
            for command in (running, sandbox.exec(["true"])):
                with pytest.raises(SandboxDiedError):
                    await command


async def test_a_destroy_that_is_refused_is_told_and_can_be_repeated(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    modal.faults.add(Fault("destroy", "refuse", times=SDK_TRIES))
    with pytest.raises(ProviderUnavailableError):
        await handle.destroy()
    await handle.destroy()
    assert modal.sandboxes() == set()


async def test_a_destroy_whose_answer_is_lost_succeeds(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    modal.faults.add(Fault("destroy", "lose_answer"))
    await handle.destroy()
    assert modal.sandboxes() == set()


async def test_a_start_that_is_cancelled_leaves_no_program(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    try:
        modal.faults.add(Fault("start", "delay", seconds=0.3))
        starting = asyncio.ensure_future(
            handle.spawn(Command(("sh", "-c", "cat; exec true", "marked"), user="root"))
        )
        await asyncio.sleep(0.1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        look = "until ! grep -qs marke[d] /proc/[0-9]*/cmdline; do sleep 0.05; done"
        with anyio.fail_after(20):
            await run(handle, "sh", "-c", look, user="root")
    finally:
        await handle.destroy()
