"""What has an owner that lives is not touched, whoever reaps and whatever the clock says."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

import sandboxkit as sk
from sandboxkit.errors import SandboxNotFoundError
from sandboxkit.journal import journal
from sandboxkit.journal.locks import holder
from sandboxkit.spec import LEASE_LABEL, NAME_LABEL, SESSION_LABEL
from sandboxkit.testing import MemoryProvider
from tests.reaping.conftest import KILLED, Host, foreign
from tests.reaping.folder import FolderProvider

HOUR_S = 3600.0


async def reaped(provider: sk.SandboxProvider, **options: bool) -> dict[str, str]:
    return {one.info.id: one.action for one in await sk.reap(provider, **options)}


async def test_in_use_by_this_process() -> None:
    provider = MemoryProvider()
    async with sk.Sandbox.create(provider, lease_s=5) as sandbox:
        (one,) = await sk.reap(provider, everyone=True, paused=True)
        assert one.action == "kept"
        assert one.why.startswith("in use by process ")
        assert one.info.labels[LEASE_LABEL] == "5"
        assert SESSION_LABEL not in one.info.labels
        assert await reaped(provider) == {sandbox.id: "kept"}
    assert await reaped(provider) == {}
    (row,) = (await journal().rows()).values()
    assert row.ended is not None
    assert row.holds == ()


async def test_the_journal_tells_the_story_of_a_sandbox() -> None:
    provider = MemoryProvider()
    async with sk.Sandbox.create(provider, lease_s=5) as sandbox:
        (row,) = (await journal().rows()).values()
        labels = sandbox.info.labels
        assert (row.key, row.id) == (labels["sandboxkit.key"], sandbox.id)
        assert (row.provider, row.account) == ("memory", provider.account())
        assert (row.owner, row.lease_s) == (labels["sandboxkit.owner"], 5.0)
        (first,) = row.holds
        assert first.alive
        async with asyncio.timeout(10):  # the heartbeat renews it
            while (await journal().rows())[row.key].holds[0].until == first.until:
                await asyncio.sleep(0.05)


async def test_one_that_this_process_has_taken_up(folder: FolderProvider) -> None:
    provider = MemoryProvider()
    async with sk.Sandbox.create(provider) as made:
        async with sk.Sandbox.attach(provider, made.id):
            (row,) = (await journal().rows()).values()
            assert len(row.holds) == 2
        (row,) = (await journal().rows()).values()
        assert len(row.holds) == 1


async def test_one_that_was_left_to_live_on() -> None:
    provider = MemoryProvider()
    sandbox = await sk.Sandbox.create(provider)
    await sandbox.detach(keep_s=HOUR_S)
    ((action, why),) = [(one.action, one.why) for one in await sk.reap(provider)]
    assert action == "kept"
    assert why.startswith("kept without a host for 3")
    await (await provider.attach(sandbox.id)).destroy()


@pytest.mark.parametrize("state", ["running", "creating", "stopped", "paused"])
async def test_another_process_that_lives(folder: FolderProvider, state: str) -> None:
    """Whatever the backend says of it; a lease that is not renewed does not change that."""
    entry = await journal().intend("folder", folder.account(), labels_of(folder), 1.0)
    folder.change(entry.row.key, state=state, guest="absent")
    await entry.renew(-HOUR_S)
    assert await reaped(folder, everyone=True, paused=True) == {entry.row.key: "kept"}


async def test_a_process_that_lives_and_has_forgotten_its_sandbox(folder: FolderProvider) -> None:
    entry = await journal().intend("folder", folder.account(), labels_of(folder), 1.0)
    folder.change(entry.row.key, guest="ended")
    assert await reaped(folder) == {entry.row.key: "kept"}
    await entry.renew(-1.0)
    assert await reaped(folder) == {entry.row.key: "removed"}


def labels_of(folder: FolderProvider) -> dict[str, str]:
    key = foreign(folder)
    return {"sandboxkit.key": key, "sandboxkit.owner": "somebody"}


@pytest.mark.parametrize("moved_s", [-30 * 86_400, 30 * 86_400])
async def test_the_clock_of_the_host_moves(
    folder: FolderProvider, monkeypatch: pytest.MonkeyPatch, moved_s: float
) -> None:
    """Neither what is in use nor what another machine has just begun is older for it."""
    folder.now = datetime.now(UTC)
    entry = await journal().intend("folder", folder.account(), labels_of(folder), 60.0)
    kept = await journal().intend("folder", folder.account(), labels_of(folder), 60.0)
    await kept.keep(60.0)
    for held in (entry, kept):  # the journal alone speaks for them
        folder.change(held.row.key, guest="ended")
    others = [
        foreign(folder, owner_name="b@other", state=state) for state in ("creating", "stopped")
    ]
    shifted = time.time() + moved_s
    monkeypatch.setattr(time, "time", lambda: shifted)
    done = await reaped(folder, everyone=True)
    assert done == dict.fromkeys([entry.row.key, kept.row.key, *others], "kept")


# those with a name


def named(folder: FolderProvider) -> dict[str, str]:
    labels = {**labels_of(folder), NAME_LABEL: "site-builder"}
    folder.change(labels["sandboxkit.key"], labels={**labels, LEASE_LABEL: "3600"})
    return labels


DIES = (
    "from sandboxkit.journal import journal; "
    "entry = await journal().intend('folder', provider.account(), {labels}, {lease}); "
    "await entry.renew({lease}); die()"
)


@pytest.mark.parametrize(
    ("state", "guest"), [("running", "absent"), ("running", "no_python"), ("paused", "absent")]
)
async def test_a_named_one_outlives_its_host_for_its_time(
    folder: FolderProvider, host: Host, state: str, guest: str
) -> None:
    labels = named(folder)
    key = labels["sandboxkit.key"]
    folder.change(key, state=state, guest=guest)
    folder.now = datetime.now(UTC) + timedelta(hours=2)  # as after many renewals
    assert await host(DIES.format(labels=labels, lease=HOUR_S)) == KILLED
    (one,) = await sk.reap(folder, paused=True)
    assert (one.action, one.info.id) == ("kept", key)
    assert one.why.startswith("it has a name, and waits for a host for 3")


async def test_a_named_one_whose_time_is_over(folder: FolderProvider, host: Host) -> None:
    labels = named(folder)
    assert await host(DIES.format(labels=labels, lease=-1.0)) == KILLED
    folder.change(labels["sandboxkit.key"], state="paused")
    assert await reaped(folder, paused=True) == {labels["sandboxkit.key"]: "removed"}


async def test_a_named_one_whose_guest_has_ended(folder: FolderProvider, host: Host) -> None:
    labels = named(folder)
    assert await host(DIES.format(labels=labels, lease=HOUR_S)) == KILLED
    folder.change(labels["sandboxkit.key"], guest="ended")
    assert await reaped(folder) == {labels["sandboxkit.key"]: "removed"}


async def test_a_named_and_paused_one_of_another_machine(folder: FolderProvider) -> None:
    """How long it waits is not known here, as its labels tell of its beginning alone."""
    folder.now = datetime.now(UTC)
    key = foreign(folder, age_s=10 * HOUR_S, state="paused")
    (info,) = [info async for info in folder.list({})]
    assert await reaped(folder, paused=True, dry_run=True) == {key: "due"}
    folder.change(key, labels={**info.labels, NAME_LABEL: "site-builder"})
    assert await reaped(folder, paused=True) == {key: "kept"}


# those of other machines


@pytest.mark.parametrize("guest", ["living", "unknown", "absent", "no_python", "gone"])
async def test_another_machines_is_left_alone(folder: FolderProvider, guest: str) -> None:
    folder.now = datetime.now(UTC)
    key = foreign(folder, owner_name="b@other", guest=guest)
    assert await reaped(folder) == {}
    assert await reaped(folder, everyone=True) == {key: "kept"}
    assert folder.looked == [key]


@pytest.mark.parametrize("guest", ["living", "unknown", "no_python", "gone"])
async def test_however_old_what_may_be_in_use_is_left_alone(
    folder: FolderProvider, guest: str
) -> None:
    folder.now = datetime.now(UTC)
    key = foreign(folder, age_s=30 * 86_400, guest=guest)
    assert await reaped(folder, everyone=True) == {key: "kept"}


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "creating"},
        {"state": "stopped"},
        {"guest": "absent"},
    ],
)
async def test_its_lease_must_be_long_past_by_the_backends_own_times(
    folder: FolderProvider, fields: dict[str, str]
) -> None:
    folder.now = datetime.now(UTC) + timedelta(days=400)  # another time than this machine's
    young = foreign(folder, owner_name="b@other", age_s=600, **fields)
    old = foreign(folder, owner_name="b@other", age_s=700, **fields)
    assert await reaped(folder, everyone=True) == {young: "kept", old: "removed"}


async def test_a_backend_without_a_clock_proves_nothing(folder: FolderProvider) -> None:
    old = foreign(folder, age_s=30 * 86_400, state="creating")
    assert await reaped(folder, everyone=True) == {old: "kept"}


async def test_what_its_guest_calls_unheld_is_nobodys(folder: FolderProvider) -> None:
    key = foreign(folder, owner_name="b@other", guest="ended")
    assert await reaped(folder, everyone=True) == {key: "removed"}


async def test_what_sandboxkit_has_not_made_is_not_even_looked_at(folder: FolderProvider) -> None:
    """A plugin's `list` may be wrong; the labels decide."""
    folder.now = datetime.now(UTC)
    for labels in ({}, {"sandboxkit.owner": "x"}, {"sandboxkit.key": "sandboxkit-0123456789ab"}):
        key = foreign(folder, age_s=30 * 86_400, state="stopped")
        folder.change(key, labels=labels)
    strange = {"sandboxkit.owner": "x", "sandboxkit.key": "my-database"}
    folder.change(foreign(folder, age_s=30 * 86_400, state="stopped"), labels=strange)
    assert await reaped(folder, everyone=True, paused=True) == {}
    assert len(folder.ids()) == 4
    assert folder.looked == folder.destroyed == []


# several at once


async def test_two_reapers_at_once(folder: FolderProvider, host: Host) -> None:
    script = "provider.after_create = die; await sk.Sandbox.create(provider)"
    codes = await asyncio.gather(*(host(script) for _ in range(4)))
    assert codes == [KILLED] * 4
    for key in folder.ids():
        folder.change(key, guest="ended")
    report = "print(sum(one.action == 'removed' for one in await sk.reap(provider)))"
    one, other, _done = await asyncio.gather(host(report), host(report), reaped(folder))
    assert (one, other) == (0, 0)
    assert folder.ids() == set()
    assert len(set(folder.destroyed)) == len(folder.destroyed)


async def test_a_reaper_and_who_takes_it_up(folder: FolderProvider) -> None:
    """Between its verdict and the end, nobody can take it up; after a pardon, all can."""
    provider = MemoryProvider()
    sandbox = await sk.Sandbox.create(provider)
    await sandbox.detach(keep_s=HOUR_S)
    key = sandbox.info.labels["sandboxkit.key"]
    assert not await journal().condemn(key)
    ((hold,),) = [row.holds for row in (await journal().rows()).values()]
    await journal().attempt(lambda store: store.release(hold.token), None)
    assert await journal().condemn(key)
    with pytest.raises(SandboxNotFoundError, match="just being removed"):
        await sk.Sandbox.attach(provider, sandbox.id)
    await journal().pardon(key)
    async with sk.Sandbox.attach(provider, sandbox.id) as again:
        assert not await journal().condemn(key)
        await again.destroy()


async def test_a_reaper_that_was_killed_keeps_nobody_away(
    folder: FolderProvider, host: Host
) -> None:
    assert await host("provider.after_create = die; await sk.Sandbox.create(provider)") == KILLED
    (key,) = folder.ids()
    folder.change(key, guest="ended")
    assert await host("provider.remove = die; await sk.reap(provider)") == KILLED
    assert folder.ids() == {key}
    assert await reaped(folder) == {key: "removed"}


async def test_in_the_background(folder: FolderProvider) -> None:
    folder.now = datetime.now(UTC)
    first = foreign(folder, age_s=700, state="stopped")
    async with sk.Reaper(folder, every_s=0.05) as reaper:
        await reaper.passed()
        folder.broken = True
        second = foreign(folder, age_s=700, state="stopped")
        await reaper.passed(reaper.passes + 2)
        assert [one.info.id for one in reaper.removed] == [first]
        folder.broken = False
        async with asyncio.timeout(10):
            while second in folder.ids():
                await reaper.passed(reaper.passes + 1)
    assert reaper.passes > 3
    with pytest.raises(sk.SandboxError):
        sk.Reaper(folder, every_s=0)


def test_a_lock_is_of_one_process(folder: FolderProvider) -> None:
    directory = folder.directory / "locks"
    assert holder(directory) == holder(directory)
