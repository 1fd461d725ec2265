"""Modal's verbs, beside what the conformance kit asks of all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    AuthenticationError,
    ExecStartError,
    ImageError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.progress import Progress, listening
from sandboxkit.providers.base import Command, Output
from sandboxkit.providers.modal import ModalProvider
from sandboxkit.providers.modal.handle import ModalHandle
from sandboxkit.spec import Artifact
from tests.emulators.faults import Fault
from tests.emulators.modal import ModalEmulator
from tests.providers.conftest import MakeSpec, output_of, run

MIB = 1024 * 1024


@pytest.fixture
async def provider(modal: ModalEmulator) -> AsyncIterator[ModalProvider]:
    modal.faults.clear()
    provider = ModalProvider()
    yield provider
    await provider.aclose()


@pytest.fixture
async def sandbox(provider: ModalProvider, make_spec: MakeSpec) -> AsyncIterator[ModalHandle]:
    handle = await provider.create(make_spec())
    yield handle
    await handle.destroy()


async def test_50_mib_in_and_out_arrive_exactly(sandbox: ModalHandle) -> None:
    channel = await sandbox.spawn(Command(("cat",), user="root"))
    piece = bytes(range(256)) * 4096 * 3
    sent, received, total = hashlib.sha256(), hashlib.sha256(), 0

    async def feed() -> None:
        for _ in range(17):
            sent.update(piece)
            await channel.send(piece)
        await channel.send_eof()

    feeding = asyncio.ensure_future(feed())
    while (output := await channel.receive()) is not None:
        assert 0 < len(output.data) <= MIB
        received.update(output.data)
        total += len(output.data)
    await feeding
    assert (total, received.digest()) == (17 * len(piece), sent.digest())
    assert await channel.wait() == 0
    await channel.aclose()


async def test_sends_and_receives_that_are_cancelled_lose_and_double_nothing(
    sandbox: ModalHandle, modal: ModalEmulator
) -> None:
    """The SDK itself loses bytes in both cases. A send that has begun is done to its end."""
    channel = await sandbox.spawn(Command(("cat",), user="root"))
    lines = [b"%d %s\n" % (number, b"x" * 200) for number in range(60)]
    modal.faults.add(Fault("input", "delay", seconds=0.02, times=len(lines)))

    async def feed() -> None:
        for number, line in enumerate(lines):
            sending = asyncio.ensure_future(channel.send(line))
            await asyncio.sleep(number % 3 * 0.003)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
        await channel.send_eof()

    feeding = asyncio.ensure_future(feed())
    seen = b""
    last: Output | None = Output(1, b"")
    while last is not None:
        receiving = asyncio.ensure_future(channel.receive())
        await asyncio.wait({receiving}, timeout=0.002)
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            last = await receiving
            seen += last.data if last is not None else b""
    await feeding
    assert seen == b"".join(lines)
    await channel.aclose()


async def test_a_slow_reader_holds_the_program_back(
    sandbox: ModalHandle, provider: ModalProvider
) -> None:
    script = """
import os, sys
for number in range(400):
    os.write(1, b"x" * 1048576)
    open("/tmp/written", "w").write(str(number + 1))
"""
    channel = await sandbox.spawn(Command(("python3", "-c", script), user="root"))
    counts: list[int] = []
    # On a connection of its own: 64 MiB that are not read fill that of the handle.
    beside = await provider.attach(sandbox.info.id)
    with anyio.fail_after(60):
        while len(counts) < 3 or len(set(counts[-3:])) > 1 or counts[-1] < 1:
            await asyncio.sleep(0.3)
            script = "cat /tmp/written 2>/dev/null || echo 0"
            counts.append(int(await run(beside, "sh", "-c", script, user="root") or 0))
    # What is on the way: the queue, gRPC's window of 64 MiB, and the service's own buffer.
    assert counts[-1] < 300
    total = 0
    while (output := await channel.receive()) is not None:
        total += len(output.data)
    assert total == 400 * MIB
    await channel.aclose()
    await beside.aclose()


async def test_exit_codes_are_told_and_signals_too(sandbox: ModalHandle) -> None:
    for script, code in (("exit 0", 0), ("exit 129", 129), ("kill -9 $$", -9), ("kill $$", -15)):
        channel = await sandbox.spawn(Command(("sh", "-c", script), user="root"))
        assert await output_of(channel) == (b"", b"")
        assert await channel.wait() == code
        await channel.aclose()


async def test_closing_a_channel_ends_the_programs_input(sandbox: ModalHandle) -> None:
    """Nothing else tells a program at Modal that its host has gone."""
    script = "cat > /tmp/copy; echo ended > /tmp/ended"
    channel = await sandbox.spawn(Command(("sh", "-c", script), user="root"))
    await channel.send(b"all of it")
    await channel.aclose()
    wait = "until [ -e /tmp/ended ]; do sleep 0.05; done; cat /tmp/copy"
    with anyio.fail_after(20):
        assert await run(sandbox, "sh", "-c", wait, user="root") == "all of it"


async def test_arguments_that_are_too_long_are_refused(
    modal: ModalEmulator, sandbox: ModalHandle
) -> None:
    before = modal.faults.calls["start"]
    with pytest.raises(ExecStartError) as caught:
        await sandbox.spawn(Command(("true", "x" * 65536), user="root"))
    assert caught.value.code == "too_long"
    assert modal.faults.calls["start"] == before


async def test_programs_run_as_the_sandboxs_user_or_the_one_asked_for(
    sandbox: ModalHandle,
) -> None:
    assert (await run(sandbox, "id", "-u")).split() == ["1000"]
    assert (await run(sandbox, "id", "-u", user="nobody")).split() == ["65534"]
    assert (await run(sandbox, "sh", "-c", "id -u; id -g; id -G", user="4321")).split() == [
        "4321"
    ] * 3
    assert (await run(sandbox, "id", "-u", user="root")).split() == ["0"]
    with pytest.raises(ExecStartError, match="no such user") as caught:
        await sandbox.spawn(Command(("true",), user="somebody"))
    assert caught.value.code == "bad_user"


async def test_without_setpriv_another_program_becomes_the_user_or_it_is_said(
    sandbox: ModalHandle, provider: ModalProvider
) -> None:
    remove = 'rm "$(command -v setpriv)"'
    await run(sandbox, "sh", "-c", remove, user="root")
    assert (await run(sandbox, "sh", "-c", "id -u; pwd", user="1000")).split()[0] == "1000"
    await run(sandbox, "sh", "-c", 'rm "$(command -v chroot)"', user="root")
    again = await provider.attach(sandbox.info.id)
    with pytest.raises(ExecStartError, match="user='root'"):
        await again.spawn(Command(("true",), user="1000"))


async def test_without_python_commands_and_files_work(provider: ModalProvider) -> None:
    async with sk.Sandbox.create(provider) as first:
        clean = await first.sh('rm -f "$(command -v python3)" /usr/bin/python3*', user="root")
        assert clean.exit_code == 0
        image = await first.snapshot()
    try:
        async with sk.Sandbox.create(provider, image=image, workdir="/tmp") as sandbox:
            assert sandbox.info.guest is False
            result = await sandbox.sh("cat; id -u; echo bad >&2; exit 3", stdin=b"in\xff\n")
            assert (result.exit_code, result.stderr) == (3, b"bad\n")
            assert result.stdout == b"in\xff\n1000\n"
            await sandbox.files.write("a", b"\0\xff" * 100_000)
            assert await sandbox.files.read("a") == b"\0\xff" * 100_000
            slow = await sandbox.sh("echo first; sleep 345", timeout_s=1)
            assert (slow.timed_out, slow.stdout) == (True, b"first\n")
    finally:
        await provider.remove_snapshot(image)


async def test_an_image_is_built_once_with_its_artifacts(
    modal: ModalEmulator, provider: ModalProvider, make_spec: MakeSpec, tmp_path: Path
) -> None:
    await anyio.Path(tmp_path / "tool").write_text("#!/bin/sh\necho brought along\n")
    artifact = Artifact(
        name="tool",
        version="1",
        platform="linux-x86_64",
        source=tmp_path / "tool",
        target="/opt/kit/tool",
    )
    spec = make_spec(image="debian:12", artifacts=(artifact,))
    said: list[Progress] = []
    with listening(said.append):
        await provider.prepare(spec)
    assert [(each.step, each.finished) for each in said] == [
        ("build debian:12", False),
        ("build debian:12", True),
    ]
    built = modal.faults.calls["build"]
    handle = await provider.create(spec)
    try:
        assert modal.faults.calls["build"] == built
        assert await run(handle, "/opt/kit/tool") == "brought along\n"
        shown = (await run(handle, "stat", "-c", "%a %u %g", "/opt/kit/tool")).strip()
        assert shown == "755 0 0"
    finally:
        await handle.destroy()
    with pytest.raises(UnsupportedError, match="linux-aarch64"):
        await provider.prepare(
            make_spec(artifacts=(artifact.model_copy(update={"platform": "linux-aarch64"}),))
        )


@pytest.mark.parametrize("image", ["no-such-image:1", "im-0123456789012345678901"])
async def test_an_image_that_there_is_not_is_named(provider: ModalProvider, image: str) -> None:
    with pytest.raises(ImageError, match=image):
        await sk.Sandbox.create(provider, image=image)


async def test_an_image_that_was_removed_meanwhile_is_looked_for_again(
    provider: ModalProvider, make_spec: MakeSpec, sandbox: ModalHandle
) -> None:
    image = await sandbox.snapshot("kept")
    spec = make_spec(image=image)
    await provider.prepare(spec)
    await provider.remove_snapshot(image)
    with pytest.raises(ImageError, match=image):
        await provider.create(spec)


async def test_what_is_no_snapshot_cannot_be_removed(provider: ModalProvider) -> None:
    with pytest.raises(UnsupportedError, match="debian:12"):
        await provider.remove_snapshot("debian:12")


async def test_only_declared_ports_have_an_address(provider: ModalProvider) -> None:
    async with sk.Sandbox.create(provider, ports=(8000,), network="open") as sandbox:
        assert (await sandbox.ports.expose(8000)).url.startswith("https://")
        with pytest.raises(UnsupportedError, match=r"8001.*8000"):
            await sandbox.ports.expose(8001)


async def test_a_list_longer_than_a_page_is_whole(
    provider: ModalProvider, make_spec: MakeSpec, modal: ModalEmulator
) -> None:
    page, modal_pages = modal_page(modal), 2
    assert page > modal_pages
    modal_page(modal, set_to=modal_pages)
    handles = [await provider.create(make_spec(labels={"many": "yes"})) for _ in range(5)]
    try:
        found = [info.id async for info in provider.list({"many": "yes"})]
        assert sorted(found) == sorted(handle.info.id for handle in handles)
    finally:
        modal_page(modal, set_to=page)
        for handle in handles:
            await handle.destroy()


def modal_page(modal: ModalEmulator, set_to: int | None = None) -> int:
    """How many sandboxes a list answers at a time."""
    control: Any = modal.control
    if set_to is not None:
        control.page = set_to
    return int(control.page)


async def test_what_is_not_ours_is_neither_listed_nor_attached_to(
    provider: ModalProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    ours = ("sandboxkit.owner", "sandboxkit.key")
    plain = {name: value for name, value in spec.labels.items() if name not in ours}
    key = {"sandboxkit.key": "x", "stranger": "yes"}
    handle = await provider.create(spec.model_copy(update={"labels": {**plain, **key}}))
    try:
        assert [info async for info in provider.list({"stranger": "yes"})] == []
        with pytest.raises(SandboxNotFoundError, match="not made by sandboxkit"):
            await provider.attach(handle.info.id)
    finally:
        await handle.destroy()


async def test_a_handle_that_was_let_go_of_can_still_destroy(
    provider: ModalProvider, make_spec: MakeSpec, modal: ModalEmulator
) -> None:
    handle = await provider.create(make_spec())
    await handle.aclose()
    await handle.aclose()
    assert handle.info.id in modal.sandboxes()
    await handle.destroy()
    await handle.destroy()
    assert handle.info.id not in modal.sandboxes()


async def test_two_accounts_live_in_one_process(
    provider: ModalProvider, make_spec: MakeSpec, modal: ModalEmulator
) -> None:
    stranger = ModalProvider(token_id="ak-nobody", token_secret="as-not-to-be-shown")
    handle = await provider.create(make_spec())
    try:
        with pytest.raises(AuthenticationError, match="MODAL_TOKEN_ID") as caught:
            await stranger.attach(handle.info.id)
        assert "as-not-to-be-shown" not in str(caught.value)
        assert (await provider.attach(handle.info.id)).info.id == handle.info.id
    finally:
        await handle.destroy()
        await stranger.aclose()


async def test_a_provider_that_was_closed_connects_again(
    provider: ModalProvider, make_spec: MakeSpec
) -> None:
    await (await provider.create(make_spec())).destroy()
    await provider.aclose()
    await provider.aclose()
    await (await provider.create(make_spec())).destroy()


def test_one_provider_serves_several_event_loops(modal: ModalEmulator) -> None:
    provider = ModalProvider()

    async def once() -> str:
        async with sk.Sandbox.create(provider) as sandbox:
            return (await sandbox.sh("echo here")).text

    try:
        assert [asyncio.run(once()) for _ in range(2)] == ["here\n"] * 2
    finally:
        asyncio.run(provider.aclose())
