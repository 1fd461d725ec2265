"""The journal's file: shared, private, replaced where damaged, and never in the way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import stat
import threading
import time
import warnings
from pathlib import Path

import pytest

import sandboxkit as sk
from sandboxkit.journal import journal
from sandboxkit.journal.store import VERSION
from sandboxkit.ownership import owned
from sandboxkit.spec import SandboxSpec
from sandboxkit.testing import MemoryProvider
from tests.reaping.conftest import Host
from tests.reaping.folder import FolderProvider

CREATED = """\
import sandboxkit.lifecycle as lifecycle
    import contextlib
    from sandboxkit.journal import journal
    for n in range(5):
        entry = await journal().intend(
            "folder", "", {"sandboxkit.key": f"{os.getpid()}-{n}", "sandboxkit.owner": "x"}, 60.0)
        await entry.made(f"id-{n}")
        if n % 2: await entry.end("done")
"""


def damage(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    for path in (file, *file.parent.glob("journal.db-*")):
        path.write_bytes(b"this is no database, and was never one. " * 500)


async def used(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Live through a sandbox; what the log says of the journal."""
    provider = MemoryProvider()
    provider.on(["true"])
    for _ in range(2):
        async with sk.Sandbox.create(provider) as sandbox:
            assert (await sandbox.exec(["true"])).exit_code == 0
            assert [one.action for one in await sk.reap(provider)] == ["kept"]
    return [one.getMessage() for one in caplog.records if "journal" in one.name]


async def test_many_processes_at_once(host: Host) -> None:
    codes = await asyncio.gather(*(host(CREATED) for _ in range(8)))
    assert codes == [0] * 8
    rows = (await journal().rows()).values()
    assert len(rows) == 40
    assert all(row.id for row in rows)
    assert sum(row.ended is None for row in rows) == 24
    assert {hold.alive for row in rows for hold in row.holds} == {False}


async def test_a_process_that_has_ended_well_leaves_the_file_alone(
    host: Host, journal_file: Path
) -> None:
    """No lock, and no log that is not written back."""
    assert await host(CREATED) == 0
    left = {path.name for path in journal_file.parent.rglob("*")}
    assert left == {"journal.db", "journal.db.holders"}


async def test_it_is_private_and_holds_no_secret(journal_file: Path) -> None:
    old = os.umask(0)
    try:
        async with sk.Sandbox.create(MemoryProvider(), env={"TOKEN": "s3cret"}):
            modes = {
                path: stat.S_IMODE(path.stat().st_mode) & 0o077
                for path in journal_file.parent.rglob("*")
                if path.is_file()
            }
    finally:
        os.umask(old)
    assert len(modes) >= 3  # the file, what SQLite has beside it, and a lock
    assert set(modes.values()) == {0}
    assert stat.S_IMODE(journal_file.parent.stat().st_mode) == 0o700
    assert all(b"s3cret" not in path.read_bytes() for path in modes)


async def test_a_damaged_file_is_kept_aside(
    journal_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(journal_file)
    assert await used(caplog) == []
    assert len((await journal().rows()).values()) == 2
    (aside,) = journal_file.parent.glob("journal.db.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")


async def test_a_file_that_is_damaged_while_it_is_open(
    journal_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = MemoryProvider()
    async with sk.Sandbox.create(provider, lease_s=1.0) as sandbox:
        damage(journal_file)
        assert [one.action for one in await sk.reap(provider)] == ["kept"]
        async with asyncio.timeout(10):  # the heartbeat tells it again
            while not (rows := await journal().rows()):
                await asyncio.sleep(0.05)
        assert [row.id for row in rows.values()] == [sandbox.id]
    assert await used(caplog) == []


async def test_a_later_versions_file_is_left_alone(
    journal_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal_file.parent.mkdir()
    with sqlite3.connect(journal_file) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    (said,) = await used(caplog)
    assert f"has version {VERSION + 1}" in said
    assert "SANDBOXKIT_JOURNAL" in said
    assert not list(journal_file.parent.glob("*.damaged-*"))
    with sqlite3.connect(journal_file) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    db.close()


async def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Root may write to what is read-only: this is a place where nobody can."""
    monkeypatch.setenv("SANDBOXKIT_JOURNAL", "/proc/sandboxkit/journal.db")
    with caplog.at_level(logging.WARNING):
        (said,) = await used(caplog)
    assert "cannot be used" in said
    monkeypatch.setenv("SANDBOXKIT_JOURNAL", str(tmp_path))  # a directory
    assert len(await used(caplog)) == 2


async def test_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SANDBOXKIT_JOURNAL", "off")
    assert await used(caplog) == []
    assert await journal().rows() == {}


async def test_a_disk_that_hangs_delays_one_create_a_little(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hangs = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(journal().attempt(lambda _store: hangs.wait(), False), 0.1)
        (said,) = await used(caplog)
        assert "does not answer" in said
    finally:
        hangs.set()
    async with asyncio.timeout(10):  # what was asked for meanwhile was not lost
        while not await journal().rows():
            await asyncio.sleep(0.01)


async def test_what_has_ended_is_forgotten_after_a_week(
    folder: FolderProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"sandboxkit.owner": "x"}
    for key in ("ended", "open"):
        await journal().intend("folder", "", {**labels, "sandboxkit.key": key}, 60.0)
    await journal().end("ended", "test")
    later = time.time() + 8 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    await journal().intend("folder", "", {**labels, "sandboxkit.key": "new"}, 60.0)
    assert (await journal().rows()).keys() == {"open", "new"}


async def test_an_intent_that_came_to_nothing_is_closed(
    folder: FolderProvider, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host("provider.before_create = die; await sk.Sandbox.create(provider)")
    await sk.reap(folder)
    (row,) = (await journal().rows()).values()
    assert row.ended is None  # it may still appear
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    await sk.reap(folder)
    (row,) = (await journal().rows()).values()
    assert row.ended is not None


async def test_an_intent_that_is_cancelled_is_held_by_nobody(journal_file: Path) -> None:
    labels = dict(owned(SandboxSpec()).labels)
    for turns in range(8):
        key = f"sandboxkit-{turns:012x}"
        wanted = journal().intend("folder", "", {**labels, "sandboxkit.key": key}, 60.0)
        task = asyncio.ensure_future(wanted)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).release()  # it was too late
    assert [hold for row in (await journal().rows()).values() for hold in row.holds] == []


async def test_a_forked_child_is_another_process(journal_file: Path) -> None:
    """Its parent's sandboxes are not its own, and it can write itself."""
    async with sk.Sandbox.create(MemoryProvider()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # later Pythons warn of a fork beside threads
            child = os.fork()
        if child == 0:
            try:
                asyncio.run(_of_the_child())
            except BaseException:  # noqa: BLE001 - it must not come back into the tests
                os._exit(1)
            os._exit(0)
        _pid, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status == 0
        rows = await journal().rows()
        assert {row.key: [hold.alive for hold in row.holds] for row in rows.values()} == {
            "child": [False],
            **{key: [True] for key in rows if key != "child"},
        }
        assert len(rows) == 2


async def _of_the_child() -> None:
    labels = {"sandboxkit.key": "child", "sandboxkit.owner": "x"}
    await journal().intend("folder", "", labels, 60.0)
    assert all(hold.alive for row in (await journal().rows()).values() for hold in row.holds)
