"""The records of sessions on both databases: who may write, forks, versions, faults."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sandboxkit.errors import InvalidSpecError, StoreError
from sandboxkit.store import Store
from sandboxkit.store.database import Database
from sandboxkit.store.lines import Batch, Key
from tests.store.postgres import Cluster

ID = "12345678-1234-4234-8234-123456789abc"
KEY = Key("-work", ID)


async def begin(store: Store, session_id: str = ID) -> Any:
    return await store.sessions.begin(
        session_id, agent="claude-code", backend="docker", spec={"workdir": "/work"}
    )


async def test_a_record(store: Store) -> None:
    writer = await begin(store)
    await store.sessions.update(writer, state="saved")
    (record,) = await store.list()
    assert record == await store.get(ID)
    assert (record.agent, record.backend, record.state) == ("claude-code", "docker", "saved")
    assert record.spec == {"workdir": "/work"}
    assert record.created < record.updated
    with pytest.raises(StoreError, match="already") as taken:
        await begin(store)
    assert taken.value.code == "session_exists"
    await store.delete(ID)
    with pytest.raises(StoreError, match="There is no session") as gone:
        await store.get(ID)
    assert gone.value.code == "no_session"


async def test_who_resumes_takes_over(store: Store) -> None:
    old = await begin(store)
    await store.lines(old).append(Batch.of(KEY, [{"n": 1}]))
    new, _ = await store.sessions.take_over(ID)
    await store.sessions.update(new, backend="e2b")
    for late in (
        store.lines(old).append(Batch.of(KEY, [{"n": 2}])),
        store.sessions.update(old, state="saved"),
        store.sessions.add_snapshot(old, (), files=0, size=0),
        store.lines(old).delete(KEY),
    ):
        with pytest.raises(StoreError, match="resumed elsewhere") as refused:
            await late
        assert refused.value.code == "taken_over"
    await store.lines(new).append(Batch.of(KEY, [{"n": 3}]))
    assert await store.lines(new).load(KEY) == [{"n": 1}, {"n": 3}]
    assert (await store.get(ID)).backend == "e2b"


async def test_a_name_belongs_to_one(store: Store) -> None:
    writer = await begin(store)
    assert await store.sessions.named("site-builder") is None
    await store.sessions.update(writer, spec={"workdir": "/work", "name": "site-builder"})
    fork = await store.fork(ID)
    assert await store.sessions.named("site-builder") == ID
    assert (await store.get(fork)).spec == {"workdir": "/work"}
    await store.sessions.unname("another")
    assert await store.sessions.named("site-builder") == ID
    await store.sessions.unname("site-builder")
    assert await store.sessions.named("site-builder") is None
    assert (await store.get(ID)).spec == {"workdir": "/work"}


async def test_a_fork_goes_its_own_way(store: Store) -> None:
    writer = await begin(store)
    lines: list[Any] = [{"uuid": "1", "sessionId": ID, "text": f'say "sessionId": "{ID}"'}]
    await store.lines(writer).append(Batch.of(KEY, lines))
    await store.lines(writer).append(Batch.of(Key("-work", ID, "subagents/a"), [{"n": 1}]))
    await store.sessions.add_snapshot(writer, ("aa",), files=2, size=5)

    one, two = await store.fork(ID), await store.fork(ID)
    forked = await store.get(one)
    assert (forked.parent, forked.conversation, forked.state) == (ID, one, "saved")
    assert forked.snapshot is not None
    assert forked.snapshot.manifest == ("aa",)
    right, _ = await store.sessions.take_over(one)
    await store.lines(right).append(Batch.of(Key("-work", one), [{"n": 2}]))
    await store.sessions.add_snapshot(right, ("bb",), files=2, size=5)
    mine = await store.lines(right).load(Key("-work", one))
    assert mine == [{**lines[0], "sessionId": one}, {"n": 2}]
    assert await store.lines(right).load(Key("-work", one, "subagents/a")) == [{"n": 1}]
    other, _ = await store.sessions.take_over(two)
    assert await store.lines(other).load(Key("-work", two)) == [{**lines[0], "sessionId": two}]
    kept = (await store.get(ID)).snapshot
    assert kept is not None
    assert kept.manifest == ("aa",)
    assert await store.lines(writer).load(KEY) == lines


async def test_one_session_does_not_see_another(store: Store) -> None:
    mine, its = await begin(store), await begin(store, ID.replace("1", "2"))
    await store.lines(mine).append(Batch.of(KEY, [{"n": 1}]))
    assert await store.lines(its).load(KEY) is None
    assert await store.lines(its).keys() == []
    await store.lines(its).append(Batch.of(KEY, [{"n": 2}]))
    assert await store.lines(mine).load(KEY) == [{"n": 1}]
    assert await store.transcripts().load({"project_key": "-work", "session_id": ID}) is None


async def test_the_tables_of_a_newer_version_are_refused(store: Store, url: str) -> None:
    await store.list()
    database = Database(url)
    await database.write(
        lambda connection: connection.execute(text("UPDATE sandboxkit_schema SET version = 7"))
    )
    await database.aclose()
    async with Store(url) as later:
        with pytest.raises(StoreError, match="version 7, this one knows 1") as newer:
            await later.list()
    assert newer.value.code == "newer_schema"


async def test_two_that_open_a_new_database_at_once(url: str) -> None:
    stores = [Store(url) for _ in range(4)]
    assert await asyncio.gather(*(store.list() for store in stores)) == [[], [], [], []]
    for store in stores:
        await store.aclose()


DYING = """
import asyncio, os, signal, sys
from sandboxkit.store import Store
from sandboxkit.store.database import Database
from sandboxkit.store.lines import Batch, Key

async def main():
    store = Store(sys.argv[1])
    writer = await store.sessions.begin(sys.argv[2], agent="a", backend="b", spec={})
    n = 0
    while True:
        await store.lines(writer).append(Batch.of(Key("-work", sys.argv[2]), [{"n": n}] * 50))
        print(n, flush=True)
        n += 1

asyncio.run(main())
"""


async def test_what_was_acknowledged_outlives_a_kill(store: Store, url: str) -> None:
    await store.list()
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", DYING, url, ID],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    said = -1
    while said < 20:
        said = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    rest = child.communicate()[0].split()
    said = int(rest[-1]) if rest else said
    writer, _ = await store.sessions.take_over(ID)
    loaded: Any = await store.lines(writer).load(KEY)
    whole = len(loaded) // 50
    assert len(loaded) == whole * 50  # no batch is torn
    assert said + 1 <= whole <= said + 2  # and none that was acknowledged is lost
    await store.lines(writer).append(Batch.of(KEY, [{"n": "on"}]))


async def test_an_outage_is_told_and_passes(cluster: Cluster) -> None:
    url = cluster.database()
    async with Store(url) as store:
        await begin(store)
        cluster.cut()
        await store.list()  # a broken connection is noticed before it is used


async def test_what_is_no_store() -> None:
    for wrong, match in (("nonsense", "not a URL"), ("mysql://x/y", "not in 'mysql'")):
        with pytest.raises(InvalidSpecError, match=match):
            Store(wrong)
    async with Store("postgresql://me:canary@/x?host=/nonexistent") as store:
        with pytest.raises(StoreError) as lost:
            await store.list()
    assert lost.value.code == "unavailable"
    assert "canary" not in f"{lost.value}{store!r}"


async def test_the_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.db"
    async with Store(f"sqlite:///{path}") as store:
        await begin(store)
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_bytes(b"no database" * 1000)
    async with Store(f"sqlite:///{path}") as store:
        with pytest.raises(StoreError, match="not a database"):
            await store.list()


def test_the_default_is_the_user_s_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/some/where")
    home = "/some/where/sandboxkit"
    assert repr(Store()) == f"<Store sqlite+aiosqlite:///{home}/store.db {home}/files>"
