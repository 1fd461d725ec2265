"""Sandboxes: made, found, taken up, ended; and nothing is left."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from sandboxkit.errors import (
    InvalidSpecError,
    SandboxClosedError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.providers.base import SandboxInfo
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import (
    CREATED_LABEL,
    EXPIRES_LABEL,
    KEY_LABEL,
    LEASE_LABEL,
    OWNER_LABEL,
)
from sandboxkit.testing.conformance.fixtures import Fields, Making
from sandboxkit.testing.conformance.inside import mark, until, until_running
from sandboxkit.testing.conformance.promise import note_refusal, promise
from sandboxkit.testing.conformance.wires import WiredProvider


async def _listed(wired: WiredProvider, **labels: str) -> list[SandboxInfo]:
    return [info async for info in wired.list(labels)]


@promise
async def test_a_sandbox_is_found_by_its_labels(create: Making) -> None:
    """The caller's labels and ours are on it from its creation, and `list` goes by them."""
    sandbox = await create(labels={"purpose": "kit"}, lifetime_s=600)
    (found,) = await _listed(create.wired, **create.label)
    assert found.id == sandbox.id
    assert found.labels["purpose"] == "kit"
    for label in (OWNER_LABEL, KEY_LABEL, CREATED_LABEL, LEASE_LABEL, EXPIRES_LABEL):
        assert found.labels[label], label
    assert found.state in {"running", "unknown"}


@promise
async def test_labels_choose_among_sandboxes(create: Making) -> None:
    """Only those with all of the labels are listed; with none that fit, none."""
    first = await create(labels={"number": "one"})
    second = await create(labels={"number": "two"})
    wired, label = create.wired, create.label
    assert {info.id for info in await _listed(wired, **label)} == {first.id, second.id}
    assert [info.id for info in await _listed(wired, number="two", **label)] == [second.id]
    assert await _listed(wired, number="three", **label) == []
    assert await _listed(wired, conformance="nobody") == []
    assert {first.id, second.id} <= {info.id for info in await _listed(wired)}


@promise
async def test_the_info_is_the_truth(create: Making, wired: WiredProvider) -> None:
    """What `info` says was applied is what a command finds."""
    sandbox = await create()
    info = sandbox.info
    assert (info.id, info.provider, info.state) == (sandbox.id, wired.name, "running")
    assert info.guest is True
    found = (await sandbox.sh("id -un 2>/dev/null || id -u; id -u; pwd", check=True)).text.split()
    if info.effective.user is not None:
        assert info.effective.user in found[:2]
    if info.effective.workdir is not None:
        assert info.effective.workdir == found[2]
    if info.created_at is not None:
        assert abs(datetime.now(UTC) - info.created_at) < timedelta(hours=1)
    fields = [difference.field for difference in info.differences]
    assert len(fields) == len(set(fields)), "a difference is told twice"
    for difference in info.differences:
        assert difference.reason


@promise
async def test_the_work_directory_asked_for_is_made(create: Making) -> None:
    """It need not be in the image, and the sandbox's user can write in it."""
    sandbox = await create(workdir="/tmp/kit/deep")  # noqa: S108 - in the sandbox
    result = await sandbox.sh("pwd; touch here", check=True)
    assert result.text == "/tmp/kit/deep\n"  # noqa: S108
    assert sandbox.workdir == "/tmp/kit/deep"  # noqa: S108


@promise
async def test_the_user_asked_for_is_used_or_refused(create: Making) -> None:
    """Commands and files are that user's; or it is `UnsupportedError`, and nothing is made."""
    try:
        sandbox = await create(user="4321")
    except UnsupportedError as error:
        note_refusal(error)
        assert await create.alive() == []
        return
    path = f"{sandbox.home}/kit-user"
    result = await sandbox.sh(f"id -u; touch {path}", check=True)
    assert result.text == "4321\n"
    assert (await sandbox.files.stat(path)).uid == 4321


@promise
async def test_another_host_sees_the_same_sandbox(sandbox: Sandbox, create: Making) -> None:
    """`attach` by the id, from another provider object: the same files, user and place."""
    await sandbox.files.write("kit-seen", "by both")
    other = await create.attach(sandbox.id)
    assert other.id == sandbox.id
    assert await other.files.read_text("kit-seen") == "by both"
    assert (other.workdir, other.home) == (sandbox.workdir, sandbox.home)
    assert dict(other.info.labels) == dict(sandbox.info.labels)
    assert other.info.effective == sandbox.info.effective
    await other.files.remove("kit-seen")


@promise
async def test_leaving_an_attached_sandbox_leaves_it_alive(
    sandbox: Sandbox, create: Making
) -> None:
    """Its own commands end; it, and the commands of others, go on."""
    marked = mark()
    async with await sandbox.spawn(["sleep", marked]) as process:
        await until_running(sandbox, marked)
        async with Sandbox.attach(create.wired, sandbox.id) as other:
            assert (await other.exec(["true"])).exit_code == 0
        assert process.exit_code is None
    with pytest.raises(SandboxClosedError):
        await other.exec(["true"])


@promise
@pytest.mark.parametrize(
    "unknown", ["no-such-sandbox", "0" * 12, "../../etc", "a b", "é", "x" * 300]
)
async def test_attaching_to_nothing_is_not_found(wired: WiredProvider, unknown: str) -> None:
    """An id that is not that of a living sandbox of ours is `SandboxNotFoundError`."""
    with pytest.raises(SandboxNotFoundError):
        await Sandbox.attach(wired, unknown)


@promise
async def test_a_destroyed_sandbox_is_gone(create: Making) -> None:
    """It is neither listed nor attached to."""
    sandbox = await create()
    await sandbox.destroy()
    assert await create.alive() == []
    with pytest.raises(SandboxNotFoundError):
        await create.attach(sandbox.id)


@promise
async def test_destroying_twice_is_success(create: Making) -> None:
    """Twice, at once, by two hosts, and after it has gone: each succeeds."""
    sandbox = await create()
    handle = await create.wired.attach(sandbox.id)
    async with anyio.create_task_group() as tasks:
        for destroy in (sandbox.destroy, sandbox.destroy, handle.destroy, handle.destroy):
            tasks.start_soon(destroy)
    await sandbox.destroy()
    await handle.destroy()
    await sandbox.aclose()
    assert await create.alive() == []


@promise
async def test_a_closed_sandbox_says_so(create: Making) -> None:
    """Whatever is asked of it then is `SandboxClosedError`."""
    sandbox = await create()
    await sandbox.destroy()
    for use in (
        sandbox.exec(["true"]),
        sandbox.spawn(["true"]),
        sandbox.files.read("x"),
        sandbox.process("x"),
    ):
        with pytest.raises(SandboxClosedError):
            await use
    with pytest.raises(SandboxClosedError):
        async with sandbox.ports.forward(80):
            pass


@promise
async def test_what_runs_is_told_that_the_sandbox_was_closed(create: Making) -> None:
    """A command that is running when its sandbox is closed raises, and nobody hangs."""
    sandbox = await create()
    marked = mark()
    running = asyncio.ensure_future(sandbox.exec(["sleep", marked]))
    await until_running(sandbox, marked)
    await sandbox.destroy()
    with anyio.fail_after(20), pytest.raises(SandboxClosedError):
        await running


@promise
async def test_a_sandbox_that_was_ended_from_outside_is_told(create: Making) -> None:
    """A command in a sandbox that somebody else ends raises: no exit code is invented."""
    sandbox = await create()
    marked = mark()
    running = asyncio.ensure_future(sandbox.exec(["sleep", marked]))
    await until_running(sandbox, marked)
    await (await create.wired.attach(sandbox.id)).destroy()
    with anyio.fail_after(30), pytest.raises(SandboxError) as caught:
        await running
    assert not isinstance(caught.value, SandboxClosedError)
    with anyio.fail_after(30), pytest.raises(SandboxError):
        await sandbox.files.read("x")
    await sandbox.destroy()


@promise
async def test_leaving_the_block_ends_the_sandbox(create: Making, spec_fields: Fields) -> None:
    """What `async with` has created ends with the block, also by an exception."""
    fields: dict[str, Any] = {**spec_fields, "labels": create.label}

    async def use() -> None:
        async with Sandbox.create(create.wired, **fields) as sandbox:
            await sandbox.exec(["true"], check=True)
            assert len(await create.alive()) == 1
            raise KeyError

    with pytest.raises(KeyError):
        await use()
    assert await create.alive() == []


@promise
async def test_a_cancelled_create_leaves_nothing(create: Making) -> None:
    """Cancelled at any moment, `create` removes what there was of it before it ends."""
    began = asyncio.get_running_loop().time()
    await (await create()).destroy()
    usual = asyncio.get_running_loop().time() - began
    for share in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8):
        task = asyncio.ensure_future(create())
        await asyncio.sleep(usual * share)
        task.cancel()
        try:
            sandbox = await task
        except asyncio.CancelledError:
            assert await create.alive() == [], f"cancelled after {share} of the usual time"
        else:  # it was quicker than usual
            await sandbox.destroy()


@promise
@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_gib": -1},
        {"cpu": "many"},
        {"no_such_field": 1},
        {"network": "sometimes"},
        {"workdir": "relative"},
        {"workdir": "/proc/self/cwd"},
        {"env": {"A=B": "1"}},
        {"labels": {"sandboxkit.owner": "somebody else"}},
        {"labels": {"a b": "1"}},
        {"labels": {"a": "new\nline"}},
        {"user": "me:root"},
        {"lease_s": 0},
    ],
    ids=str,
)
async def test_a_wrong_spec_is_refused(create: Making, wrong: dict[str, Any]) -> None:
    """A field that is unknown, or has a wrong value, is `InvalidSpecError` that names it."""
    (field,) = wrong
    with pytest.raises(InvalidSpecError, match=field):
        await Sandbox.create(create.wired, **wrong)


@promise
async def test_many_sandboxes_live_beside_each_other(create: Making) -> None:
    """Made and used at once, each has its own files and processes."""
    marked = mark()

    async def one(number: int) -> None:
        sandbox = await create()
        await sandbox.files.write("mine", str(number))
        async with await sandbox.spawn(["sleep", marked]):
            await until_running(sandbox, marked)
            assert await sandbox.files.read_text("mine") == str(number)
            assert (await sandbox.sh(f"pgrep -c -f {marked} || true")).exit_code == 0

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(one, number)
    await until(lambda: _count(create, 3))


async def _count(create: Making, count: int) -> bool:
    return len(await create.alive()) == count
