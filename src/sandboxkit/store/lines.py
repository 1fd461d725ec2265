"""Lines of JSON that only grow: transcripts and histories, each line kept exactly once."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from sandboxkit.errors import StoreError
from sandboxkit.store.database import Database
from sandboxkit.store.tables import entries, sessions, transcripts

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql.elements import ColumnElement

Entry = Mapping[str, Any]
Fold = Callable[[dict[str, Any] | None], dict[str, Any]]
"""From the last summary and its `mtime` to the next."""

_IN_ONE = 500  # rows of one statement


class Key(NamedTuple):
    """The name of one run of lines within a scope. `subpath` is empty for the main one."""

    project_key: str
    session_id: str
    subpath: str = ""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes into a scope.

    Attributes:
        scope: The session; empty for what belongs to none.
        token: What was given out to the host that has begun or resumed it last.
    """

    scope: str = ""
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines to append, which land once however often they are tried."""

    key: Key
    lines: tuple[tuple[str, str], ...]  # what makes it unique, JSON

    @classmethod
    def of(cls, key: Key, items: Sequence[Entry]) -> Batch:
        """Lines of these items.

        One with a `uuid`, or an attribute `once`, is the same line wherever it comes from.
        """
        batch = secrets.token_hex(8)
        lines: list[tuple[str, str]] = []
        for number, item in enumerate(items):
            uuid = item.get("uuid")
            once = getattr(item, "once", f"{batch}:{number}")
            once = f"uuid:{uuid}" if isinstance(uuid, str) else f"{once}"
            # ASCII: neither NUL nor half a surrogate pair is anything else than text then.
            lines.append((once, json.dumps(item)))
        return cls(key, tuple(lines))


class Lines:
    """The lines of one scope.

    Args:
        database: Where.
        writer: The scope, and the right to write.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    def _is(self, key: Key) -> ColumnElement[bool]:
        of = transcripts.c
        return (
            (of.scope == self._writer.scope)
            & (of.project_key == key.project_key)
            & (of.session_id == key.session_id)
            & (of.subpath == key.subpath)
        )

    async def append(self, batch: Batch, fold: Fold | None = None) -> None:
        """Add lines; those that are there already are left out.

        Args:
            batch: What.
            fold: Makes the next summary, kept in the same transaction.

        Raises:
            StoreError: Nothing was added; or, after an outage, perhaps all was.
        """

        async def work(connection: AsyncConnection) -> None:
            await may_write(connection, self._writer)
            number, length, mtime, summary = await self._row(connection, batch.key)
            added = await _insert(connection, number, length, batch.lines)
            changed: dict[str, Any] = {
                "length": length + len(batch.lines),  # places of what was left out stay free
                "mtime": max(int(time.time() * 1000), mtime + 1),
            }
            if fold is not None and added:
                before = None if summary is None else {**json.loads(summary), "mtime": mtime}
                changed["summary"] = json.dumps(fold(before))
            await connection.execute(
                update(transcripts).where(transcripts.c.number == number).values(**changed)
            )

        await self._database.write(work)

    async def _row(self, connection: AsyncConnection, key: Key) -> tuple[int, int, int, str | None]:
        """The key's row, made if it is missing, and locked."""
        new = _insert_once(connection, transcripts).values(
            scope=self._writer.scope, **key._asdict(), mtime=0, length=0
        )
        await connection.execute(new.on_conflict_do_nothing())
        of = transcripts.c
        columns = (of.number, of.length, of.mtime, of.summary)
        found = select(*columns).where(self._is(key)).with_for_update()
        number, length, mtime, summary = (await connection.execute(found)).one()
        return number, length, mtime, summary

    async def load(self, key: Key) -> list[dict[str, Any]] | None:
        """All lines in their order; None where there never were any."""
        async with self._database.reading() as connection:
            found = select(transcripts.c.number).where(self._is(key))
            number = (await connection.execute(found)).scalar_one_or_none()
            if number is None:
                return None
            wanted = select(entries.c.entry).where(entries.c.transcript == number)
            rows = (await connection.execute(wanted.order_by(entries.c.position))).scalars()
            lines = rows.all()
        return [cast("dict[str, Any]", json.loads(line)) for line in lines]

    async def keys(
        self, *, project_key: str | None = None, session_id: str | None = None
    ) -> list[tuple[Key, int, str | None]]:
        """What there is, with the time of its last change and its summary."""
        of = transcripts.c
        wanted = select(of.project_key, of.session_id, of.subpath, of.mtime, of.summary)
        wanted = wanted.where(of.scope == self._writer.scope)
        if project_key is not None:
            wanted = wanted.where(of.project_key == project_key)
        if session_id is not None:
            wanted = wanted.where(of.session_id == session_id)
        async with self._database.reading() as connection:
            rows = (await connection.execute(wanted.order_by(of.number))).all()
        return [(Key(*row[:3]), row[3], row[4]) for row in rows]

    async def delete(self, key: Key) -> None:
        """Take lines away; for a main key, those of its subpaths as well."""

        async def work(connection: AsyncConnection) -> None:
            await may_write(connection, self._writer)
            await _delete(connection, self._is(key))
            if not key.subpath:
                of = transcripts.c
                below = (of.scope == self._writer.scope) & (of.project_key == key.project_key)
                await _delete(connection, below & (of.session_id == key.session_id))

        await self._database.write(work)


async def may_write(connection: AsyncConnection, writer: Writer) -> None:
    """Refuse a host whose session another has taken over; holds until the transaction ends."""
    if not writer.scope:
        return
    wanted = select(sessions.c.writer).where(sessions.c.id == writer.scope)
    found = (await connection.execute(wanted.with_for_update(read=True))).one_or_none()
    if found is None:
        raise StoreError(f"There is no session {writer.scope} in the store.", code="no_session")
    if found[0] != writer.token:
        raise StoreError(
            f"The session {writer.scope} was resumed elsewhere meanwhile, and is kept from "
            "there: what happens here is no longer saved.",
            code="taken_over",
            retryable=False,
        )


async def copy_lines(connection: AsyncConnection, source: str, target: str) -> None:
    """Give a forked session the lines of the one that it comes from, under its own id."""
    of = transcripts.c
    rows = (await connection.execute(select(transcripts).where(of.scope == source))).mappings()
    for row in rows.all():
        mine = {name: value for name, value in row.items() if name != "number"}
        mine |= {"scope": target, "session_id": _renamed(row["session_id"], source, target)}
        if row["summary"] is not None:
            mine["summary"] = row["summary"].replace(source, target)
        made = await connection.execute(insert(transcripts).values(**mine).returning(of.number))
        number = made.scalar_one()
        # In a line, the id stands where it says which session it is of; nothing else is touched.
        said, says = (json.dumps({"sessionId": name})[1:-1] for name in (source, target))
        lines = select(
            literal(number),
            entries.c.position,
            entries.c.once,
            func.replace(entries.c.entry, said, says),
        ).where(entries.c.transcript == row["number"])
        columns = ["transcript", "position", "once", "entry"]
        await connection.execute(insert(entries).from_select(columns, lines))


def _renamed(name: str, source: str, target: str) -> str:
    return target if name == source else name


async def _insert(
    connection: AsyncConnection, number: int, start: int, lines: Sequence[tuple[str, str]]
) -> int:
    added = 0
    for at in range(0, len(lines), _IN_ONE):
        rows = [
            {"transcript": number, "position": start + at + i, "once": once, "entry": entry}
            for i, (once, entry) in enumerate(lines[at : at + _IN_ONE])
        ]
        new = _insert_once(connection, entries).values(rows).on_conflict_do_nothing()
        added += (await connection.execute(new)).rowcount
    return added


def _insert_once(connection: AsyncConnection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can leave out what is there; SQLAlchemy has one for each dialect."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


async def _delete(connection: AsyncConnection, which: ColumnElement[bool]) -> None:
    numbers = select(transcripts.c.number).where(which).scalar_subquery()
    await connection.execute(delete(entries).where(entries.c.transcript.in_(numbers)))
    await connection.execute(delete(transcripts).where(which))
