"""Hosts killed at the worst moments: what they leave is found and removed, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import sandboxkit as sk
from sandboxkit.journal import journal
from sandboxkit.testing import MemoryProvider
from tests.reaping.conftest import KILLED, Host
from tests.reaping.folder import FolderProvider

CREATE = "await sk.Sandbox.create(provider)"


async def actions(folder: FolderProvider) -> list[tuple[str, str]]:
    return [(one.action, one.why) for one in await sk.reap(folder)]


async def test_after_the_intent(folder: FolderProvider, host: Host) -> None:
    assert await host(f"provider.before_create = die; {CREATE}") == KILLED
    assert folder.ids() == set()
    (row,) = (await journal().rows()).values()
    assert (row.provider, row.id, row.ended) == ("folder", None, None)
    assert [hold.alive for hold in row.holds] == [False]
    assert await actions(folder) == []


@pytest.mark.parametrize("state", ["running", "creating", "stopped"])
async def test_after_the_create_before_the_id_is_noted(
    folder: FolderProvider, host: Host, state: str
) -> None:
    assert await host(f"provider.after_create = die; {CREATE}") == KILLED
    (key,) = folder.ids()
    folder.change(key, state=state, guest="absent")
    (row,) = (await journal().rows()).values()
    assert (row.key, row.id) == (key, None)
    ((action, _why),) = await actions(folder)
    assert action == "removed"
    assert folder.ids() == set()
    assert (await journal().rows())[key].ended is not None


async def test_what_a_list_does_not_show_yet_is_asked_for_by_its_key(
    folder: FolderProvider, host: Host
) -> None:
    assert await host(f"provider.after_create = die; {CREATE}") == KILLED
    (key,) = folder.ids()
    folder.change(key, state="creating")
    folder.hidden.add(key)
    assert [one.info.id for one in await sk.reap(folder)] == [key]
    assert folder.ids() == set()


async def test_while_the_guest_is_on_its_way(folder: FolderProvider, host: Host) -> None:
    """The id is noted; the host dies before anybody has heard of the guest."""
    script = f"provider.guest = die; {CREATE}"
    assert await host(script) == KILLED
    (key,) = folder.ids()
    (row,) = (await journal().rows()).values()
    assert row.id == key
    folder.change(key, guest="living")  # its lease still runs
    ((action, why),) = await actions(folder)
    assert (action, why) == ("kept", "a host holds it, or its lease still runs")
    folder.change(key, guest="ended")
    ((action, why),) = await actions(folder)
    assert action == "removed"
    assert folder.ids() == set()


@pytest.mark.parametrize("guest", ["no_python", "gone"])
async def test_without_a_guest_there_is_nobody_to_ask(
    folder: FolderProvider, host: Host, guest: str
) -> None:
    """Nor in a machine that has ended, and is listed none the less."""
    assert await host(f"provider.after_create = die; {CREATE}") == KILLED
    (key,) = folder.ids()
    folder.change(key, guest=guest)
    assert await actions(folder) == [("removed", "its host is gone")]


@pytest.mark.parametrize("moved_s", [7200.0, -7200.0])
async def test_what_never_was_is_forgotten(
    folder: FolderProvider, host: Host, monkeypatch: pytest.MonkeyPatch, moved_s: float
) -> None:
    """Once it cannot come any more; also where the clock has been put back since."""
    assert await host(f"provider.before_create = die; {CREATE}") == KILLED
    assert await actions(folder) == []
    moved = time.time() + moved_s
    monkeypatch.setattr(time, "time", lambda: moved)
    assert await actions(folder) == []
    (row,) = (await journal().rows()).values()
    assert row.ended == moved


async def test_the_locks_of_the_dead_are_removed(
    folder: FolderProvider, host: Host, journal_file: Path
) -> None:
    """Also of one whose sandboxes have all ended, so that nothing names it any more."""
    script = "async with sk.Sandbox.create(MemoryProvider()): pass"
    script = f"from sandboxkit.testing import MemoryProvider\n    {script}\n    die()"
    assert await host(script) == KILLED
    locks = journal_file.with_name("journal.db.holders")
    assert len(list(locks.iterdir())) == 1
    async with sk.Sandbox.create(MemoryProvider()):
        assert await actions(folder) == []
        assert len(list(locks.iterdir())) == 1
        (row,) = [row for row in (await journal().rows()).values() if row.ended is None]
        assert [hold.alive for hold in row.holds] == [True]


async def test_a_paused_one_is_left_unless_it_is_meant(folder: FolderProvider, host: Host) -> None:
    assert await host(f"provider.after_create = die; {CREATE}") == KILLED
    (key,) = folder.ids()
    folder.change(key, state="paused")
    ((action, _why),) = await actions(folder)
    assert action == "kept"
    (one,) = await sk.reap(folder, paused=True)
    assert one.action == "removed"


async def test_a_dry_run_changes_nothing(folder: FolderProvider, host: Host) -> None:
    assert await host(f"provider.after_create = die; {CREATE}") == KILLED
    (key,) = folder.ids()
    folder.change(key, guest="ended")
    before = await journal().rows()
    (one,) = await sk.reap(folder, dry_run=True)
    assert (one.action, one.info.id) == ("due", key)
    assert folder.ids() == {key}
    assert await journal().rows() == before


async def test_a_backend_that_does_not_remove_it_is_asked_again(
    folder: FolderProvider, host: Host
) -> None:
    assert await host(f"provider.after_create = die; {CREATE}") == KILLED
    (key,) = folder.ids()
    folder.change(key, guest="ended")
    folder.broken = True
    (one,) = await sk.reap(folder)
    assert one.action == "failed"
    assert "out of order" in one.why
    folder.broken = False
    (one,) = await sk.reap(folder)
    assert one.action == "removed"
