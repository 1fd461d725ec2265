"""E2B's verbs, beside what the conformance kit asks of all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    AuthenticationError,
    ConnectionLostError,
    ExecStartError,
    ImageError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.providers.base import ByteChannel, Command, SandboxInfo
from sandboxkit.providers.e2b import E2BProvider
from sandboxkit.providers.e2b.handle import E2BHandle
from sandboxkit.providers.e2b.provider import plan
from sandboxkit.providers.e2b.stream import exit_code
from sandboxkit.spec import EXPIRES_LABEL, KEY_LABEL
from tests.emulators.e2b import E2BEmulator
from tests.providers.conftest import MakeSpec, output_of, run

SLOW_TO_READ = """
import os
for number in range(200):
    os.write(1, b"x" * 524287 + b"\\n")
    open("/tmp/written", "w").write(str(number + 1))
"""


@pytest.fixture
async def provider(e2b: E2BEmulator) -> AsyncIterator[E2BProvider]:
    e2b.faults.clear()
    provider = E2BProvider(creates_per_s=None)
    yield provider
    await provider.aclose()


@pytest.fixture
async def sandbox(provider: E2BProvider, make_spec: MakeSpec) -> AsyncIterator[E2BHandle]:
    handle = await provider.create(make_spec())
    yield handle
    await handle.destroy()


def body_of(e2b: E2BEmulator, handle: E2BHandle) -> dict[str, Any]:
    """The request that created it."""
    return e2b.account.sandboxes[handle.info.id].body


# what is asked for


async def test_a_sandbox_is_closed_and_short_lived_by_default(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec(lease_s=7)
    handle = await provider.create(spec)
    body = body_of(e2b, handle)
    assert body["allow_internet_access"] is False
    assert body["network"] == {"allowPublicTraffic": False}
    assert (body["autoPause"], body["autoResume"]) == (False, {"enabled": False})
    assert 7 < body["timeout"] < 60
    assert body["metadata"][KEY_LABEL] == spec.key
    await handle.destroy()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"cpu": 1.5}, "cpu"),
        ({"memory_gib": 0.0625}, "memory_gib"),
        ({"memory_gib": 1.0001}, "memory_gib"),
        ({"lease_s": 86_400}, "lease|Timeout"),
        ({"memory_gib": 64}, "Memory|memory"),
        ({"cpu": 64}, "CPU|cpu"),
    ],
)
async def test_what_cannot_be_had_is_refused_and_named(
    e2b: E2BEmulator, provider: E2BProvider, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        await sk.Sandbox.create(provider, **fields)
    assert e2b.sandboxes() == set()


async def test_a_default_that_did_not_come_true_is_told_with_what_holds(
    sandbox: E2BHandle, provider: E2BProvider
) -> None:
    told = {each.field: (each.wanted, each.applied) for each in sandbox.info.differences}
    assert told["resources.memory_gib"] == (1.0, 0.5)
    assert told["resources.cpu"] == (1.0, 2.0)
    assert {"resources.disk_gib", "resources.pids"} <= told.keys()
    assert (sandbox.info.effective.cpu, sandbox.info.effective.memory_gib) == (2.0, 0.5)
    again = await provider.attach(sandbox.info.id)
    assert (again.info.effective, again.info.differences) == (
        sandbox.info.effective,
        sandbox.info.differences,
    )


async def test_what_was_asked_for_holds_and_is_no_difference(provider: E2BProvider) -> None:
    async with sk.Sandbox.create(provider, cpu=1, memory_gib=0.5) as sandbox:
        assert (sandbox.info.effective.cpu, sandbox.info.effective.memory_gib) == (1.0, 0.5)
        fields = {each.field for each in sandbox.info.differences}
        assert not fields & {"resources.cpu", "resources.memory_gib"}


async def test_the_agent_cannot_become_the_guests_user(sandbox: E2BHandle) -> None:
    """E2B's images let their user become root; nothing that is started here may."""
    for user in ("user", "root"):
        status = await run(sandbox, "cat", "/proc/self/status", user=user)
        assert "NoNewPrivs:\t1" in status


# accounts


async def test_two_accounts_in_one_process_are_kept_apart(
    e2b: E2BEmulator, sandbox: E2BHandle, make_spec: MakeSpec
) -> None:
    wrong = E2BProvider(api_key="e2b_wrong")
    right = E2BProvider(api_key=e2b.key)
    with pytest.raises(AuthenticationError) as caught:
        await wrong.attach(sandbox.info.id)
    assert "e2b_wrong" not in str(caught.value)
    assert caught.value.retryable is False
    assert (await right.attach(sandbox.info.id)).info.id == sandbox.info.id
    with pytest.raises(AuthenticationError):
        await wrong.create(make_spec())
    assert wrong.account() != right.account() == E2BProvider().account()
    assert e2b.key not in right.account()


async def test_without_a_key_it_says_where_to_get_one(
    provider: E2BProvider, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert provider.credentials().found
    assert E2BProvider(api_key="e2b_x").credentials().said == "the argument api_key"
    monkeypatch.delenv("E2B_API_KEY")
    assert not provider.credentials().found
    assert "E2B_API_KEY" in provider.credentials().said
    with pytest.raises(AuthenticationError, match="E2B_API_KEY"):
        await provider.create(make_spec())


async def test_debug_mode_is_not_taken_up(
    e2b: E2BEmulator, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `E2B_DEBUG`, the SDK makes nothing and ends nothing."""
    monkeypatch.setenv("E2B_DEBUG", "true")
    handle = await E2BProvider().create(make_spec())
    assert e2b.sandboxes() == {handle.info.id}
    await handle.destroy()
    assert e2b.sandboxes() == set()


# programs


@pytest.mark.parametrize(
    ("name", "value"), [("PATH", "/nowhere:/usr/bin:/bin"), ("PS1", "$(id) `id`\n\\é")]
)
@pytest.mark.parametrize("user", ["root", "user"])
async def test_the_environment_survives_the_login_shell(
    sandbox: E2BHandle, name: str, value: str, user: str
) -> None:
    script = "import os, sys; sys.stdout.write(os.environ[sys.argv[1]])"
    command = Command(("/usr/bin/python3", "-c", script, name), env={name: value}, user=user)
    channel = await sandbox.spawn(command)
    stdout, stderr = await output_of(channel)
    await channel.aclose()
    assert (stdout.decode(), stderr) == (value, b"")


async def test_variables_of_the_wrapper_do_not_leak(sandbox: E2BHandle) -> None:
    assert "sandboxkit" not in await run(sandbox, "env")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Command(("true",), user="nobody-here"), "bad_user"),
        (Command(("true",), cwd="/no/such/directory"), "bad_cwd"),
    ],
)
async def test_a_program_that_cannot_start_says_why(
    sandbox: E2BHandle, command: Command, code: str
) -> None:
    with pytest.raises(ExecStartError) as caught:
        await sandbox.spawn(command)
    assert caught.value.code == code


async def test_exit_codes_and_signals_are_told(sandbox: E2BHandle) -> None:
    for line, code in (("exit 0", 0), ("exit 3", 3), ("exit 200", 200)):
        channel = await sandbox.spawn(Command(("sh", "-c", line)))
        await output_of(channel)
        assert await channel.wait() == code
        await channel.aclose()


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        (0, None, 0),
        (137, "exit status 137", 137),
        (-1, "signal: killed", -9),
        (-1, "signal: aborted (core dumped)", -6),
        (-1, "signal: something new", None),
        (-1, None, None),
    ],
)
def test_a_signal_becomes_its_number(code: int, error: str | None, told: int | None) -> None:
    assert exit_code(code, error) == told


async def test_a_program_that_is_ended_by_e2b_is_told_as_killed(sandbox: E2BHandle) -> None:
    channel = await sandbox.spawn(Command(("sh", "-c", "echo $$; exec sleep 600")))
    first = await channel.receive()
    assert first is not None
    beside = await sandbox.spawn(Command(("sh", "-c", f"kill -TERM {first.data.decode()}")))
    await output_of(beside)
    await output_of(channel)
    assert await channel.wait() in {-15, 143}
    for each in (beside, channel):
        await each.aclose()


async def test_input_that_was_sent_arrives_before_its_end(sandbox: E2BHandle) -> None:
    channel = await sandbox.spawn(Command(("sh", "-c", "sleep 0.5; wc -c")))
    for _ in range(40):
        await channel.send(b"x" * 100_000 + b"\n")
    await channel.send_eof()
    stdout, _ = await output_of(channel)
    assert int(stdout) == 40 * 100_001
    with pytest.raises(ConnectionLostError):
        await channel.send(b"more\n")
    await channel.aclose()


async def send_on(channel: ByteChannel) -> None:
    """Send until it fails: the SDK tells of a failure at the next call."""
    while True:
        await channel.send(b"x\n")
        await asyncio.sleep(0.01)


async def test_sending_to_a_program_that_has_ended_is_a_lost_connection(
    sandbox: E2BHandle,
) -> None:
    channel = await sandbox.spawn(Command(("true",)))
    await output_of(channel)
    with anyio.fail_after(20), pytest.raises(ConnectionLostError):
        await send_on(channel)
    await channel.aclose()


async def test_a_slow_reader_holds_the_program_back(sandbox: E2BHandle) -> None:
    channel = await sandbox.spawn(Command(("python3", "-c", SLOW_TO_READ), user="root"))
    counts: list[int] = []
    with anyio.fail_after(60):
        while len(counts) < 3 or len(set(counts[-3:])) > 1 or counts[-1] < 1:
            await asyncio.sleep(0.3)
            counts.append(int(await run(sandbox, "sh", "-c", "cat /tmp/written || echo 0") or 0))
    assert counts[-1] < 200, "all of it was taken, though nobody reads"
    stdout, _ = await output_of(channel)
    assert len(stdout) == 200 * 524288
    assert await channel.wait() == 0
    await channel.aclose()


async def test_closing_ends_the_program_and_whoever_waits(sandbox: E2BHandle) -> None:
    channel = await sandbox.spawn(Command(("sh", "-c", "echo $$; exec sleep 600")))
    first = await channel.receive()
    assert first is not None
    receiving = asyncio.ensure_future(channel.receive())
    await asyncio.sleep(0)
    await channel.aclose()
    with contextlib.suppress(ConnectionLostError):
        assert await receiving is None
    assert await channel.wait() in {-9, None}
    pid = first.data.decode().strip()
    with anyio.fail_after(20):
        while "gone" not in await run(sandbox, "sh", "-c", f"test -d /proc/{pid} || echo gone"):
            await asyncio.sleep(0.05)


async def test_closing_is_quick_when_nobody_has_read(sandbox: E2BHandle) -> None:
    channel = await sandbox.spawn(Command(("sh", "-c", "yes")))
    await channel.receive()
    with anyio.fail_after(5):
        await channel.aclose()
        await channel.aclose()


# found, kept, ended


async def test_a_sandbox_that_is_not_ours_is_left_alone(
    e2b: E2BEmulator, provider: E2BProvider
) -> None:
    from e2b import AsyncSandbox

    foreign = await AsyncSandbox.create(timeout=60)
    try:
        with pytest.raises(SandboxNotFoundError):
            await provider.attach(foreign.sandbox_id)
        assert foreign.sandbox_id not in {info.id async for info in provider.list({})}
    finally:
        await foreign.kill()


async def test_attaching_wakes_and_prolongs_nothing(
    e2b: E2BEmulator, provider: E2BProvider, sandbox: E2BHandle
) -> None:
    await sandbox.pause()
    handle = await provider.attach(sandbox.info.id)
    assert handle.info.state == "paused"
    assert e2b.account.sandboxes[sandbox.info.id].state == "paused"
    with pytest.raises(ConnectionLostError, match="paused"):
        await handle.spawn(Command(("true",)))
    with pytest.raises(ConnectionLostError, match="paused"):
        await sandbox.spawn(Command(("true",)))
    await handle.resume()
    assert await run(handle, "echo", "well") == "well\n"


async def test_many_are_listed_over_all_pages(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxkit.providers.e2b.provider._PAGE", 1)
    specs = [make_spec(labels={"odd": "a b&c=d/é@%"}) for _ in range(3)]
    handles = [await provider.create(spec) for spec in specs]
    listed: list[SandboxInfo] = [info async for info in provider.list({"odd": "a b&c=d/é@%"})]
    assert {info.id for info in listed} == {handle.info.id for handle in handles}
    assert {dict(info.labels)["odd"] for info in listed} == {"a b&c=d/é@%"}
    assert e2b.faults.calls["list"] >= 3
    for handle in handles:
        await handle.destroy()


async def test_a_renewal_ends_with_the_life_time(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    expires = {EXPIRES_LABEL: "2026-01-01T00:01:40+00:00"}  # 100 s after its creation
    spec = spec.model_copy(update={"labels": {**spec.labels, **expires}})
    handle = await provider.create(spec)
    await handle.renew(30)
    assert 30 < e2b.account.sandboxes[handle.info.id].seconds_left < 50
    await handle.renew(3000)
    assert 90 < e2b.account.sandboxes[handle.info.id].seconds_left < 120
    await handle.destroy()


# templates


async def test_a_template_is_built_once_for_all_who_want_it(
    e2b: E2BEmulator, make_spec: MakeSpec
) -> None:
    fields: dict[str, Any] = {"image": "template:base", "cpu": 3, "memory_gib": 0.5}
    first, second = E2BProvider(), E2BProvider()
    async with anyio.create_task_group() as tasks:
        for provider in (first, first, second):
            tasks.start_soon(provider.prepare, make_spec(**fields))
    before = dict(e2b.faults.calls)
    handle = await E2BProvider().create(make_spec(**fields))
    assert handle.info.effective.cpu == 3.0
    await handle.destroy()
    builds = [name for name in names_of(e2b) if name.startswith("sandboxkit-")]
    assert len(builds) == len(set(builds))
    assert e2b.faults.calls["build"] - before.get("build", 0) <= 2  # does it exist? no more


def names_of(e2b: E2BEmulator) -> list[str]:
    return [name for template in e2b.account.catalog.templates.values() for name in template.names]


async def test_a_template_whose_build_was_given_up_is_built_again(
    e2b: E2BEmulator, provider: E2BProvider, make_spec: MakeSpec
) -> None:
    """Its name exists from the first moment, and `exists` says so."""
    from e2b import AsyncTemplate

    spec = make_spec(cpu=5, memory_gib=0.5)
    recipe = plan(spec, "base").recipe
    assert recipe is not None
    template = AsyncTemplate(file_context_path="/nowhere").from_base_image().copy("missing", "/")
    with pytest.raises(ValueError, match="No files"):  # after the name has been taken
        await AsyncTemplate.build_in_background(template, recipe.name)
    assert await AsyncTemplate.exists(recipe.name)
    handle = await provider.create(spec)
    assert handle.info.effective.cpu == 5.0
    await handle.destroy()


async def test_a_template_that_there_is_not_is_named(provider: E2BProvider) -> None:
    with pytest.raises(ImageError, match="template:no-such-template"):
        await sk.Sandbox.create(provider, image="template:no-such-template")


async def test_only_snapshots_of_ours_are_removed(provider: E2BProvider) -> None:
    for image in ("template:base", "python:3.12", "template:my-own", "sandboxkit-snapshot-x"):
        with pytest.raises(UnsupportedError):
            await provider.remove_snapshot(image)


async def test_a_second_snapshot_of_a_name_leaves_the_first_as_it_was(
    provider: E2BProvider, sandbox: E2BHandle, make_spec: MakeSpec
) -> None:
    await run(sandbox, "sh", "-c", "echo one > /opt/number", user="root")
    first = await sandbox.snapshot("same")
    await run(sandbox, "sh", "-c", "echo two > /opt/number", user="root")
    second = await sandbox.snapshot("same")
    assert first != second
    handle = await provider.create(make_spec(image=first))
    assert await run(handle, "cat", "/opt/number") == "one\n"
    await handle.destroy()
    for image in (first, second):
        await provider.remove_snapshot(image)
