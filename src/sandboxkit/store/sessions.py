"""The records of sessions: what each is, who writes it, and its newest snapshot."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from sandboxkit.errors import StoreError
from sandboxkit.store.database import Database
from sandboxkit.store.lines import Writer, copy_lines, may_write
from sandboxkit.store.tables import entries, sessions, snapshots, transcripts

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

State = Literal["open", "saved", "failed"]
"""`open`: a host has it, or died with it; `saved`: closed with all that it was; `failed`: closed,
and the last save was refused or could not be done."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A workspace as it was at one time.

    Attributes:
        number: Its number in the store.
        created: Seconds since the epoch.
        manifest: The digests of the pieces of its list of files.
        files: How many files, directories and symlinks.
        bytes: What they hold, uncompressed.
    """

    number: int
    created: float
    manifest: tuple[str, ...] = field(repr=False)
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What a store knows of a session. There is no credential in it.

    Attributes:
        id: Its id, for `Session.resume`.
        agent: The agent's name.
        backend: The name of the backend that it ran on last.
        spec: What its sandbox was; see `sandboxkit.store.recipe`.
        state: `open`, `saved` or `failed`.
        created: Seconds since the epoch.
        updated: The same, of the last save.
        conversation: The id by which the agent knows the conversation.
        parent: The session that it was forked from.
        snapshot: The newest snapshot of its workspace.
    """

    id: str
    agent: str
    backend: str
    spec: Mapping[str, Any] = field(repr=False)
    state: State
    created: float
    updated: float
    conversation: str
    parent: str | None = None
    snapshot: Snapshot | None = None


class Sessions:
    """The table of sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(
        self, session_id: str, *, agent: str, backend: str, spec: Mapping[str, Any]
    ) -> Writer:
        """Write down a new session; the right to write it.

        Raises:
            StoreError: There is one of this id; code `session_exists`.
        """
        now, token = time.time(), secrets.token_hex(16)
        new = insert(sessions).values(
            id=session_id,
            agent=agent,
            backend=backend,
            spec=json.dumps(spec),
            state="open",
            created=now,
            updated=now,
            conversation=session_id,
            writer=token,
        )

        async def work(connection: AsyncConnection) -> None:
            try:
                await connection.execute(new)
            except IntegrityError:
                raise StoreError(
                    f"There is a session {session_id} in the store already; take it up with "
                    "Session.resume(), or leave the id out.",
                    code="session_exists",
                    retryable=False,
                ) from None

        await self._database.write(work)
        return Writer(session_id, token)

    async def get(self, session_id: str) -> SessionRecord:
        """One session.

        Raises:
            StoreError: There is none; code `no_session`.
        """
        async with self._database.reading() as connection:
            return await _get(connection, session_id)

    async def all(self) -> list[SessionRecord]:
        """All sessions, the last saved one first."""
        async with self._database.reading() as connection:
            order = sessions.c.updated.desc(), sessions.c.id
            rows = (await connection.execute(select(sessions).order_by(*order))).mappings().all()
            return [await _record(connection, row) for row in rows]

    async def named(self, name: str) -> str | None:
        """The id of the session that has this name; None where none has."""
        async with self._database.reading() as connection:
            order = sessions.c.updated.desc(), sessions.c.id
            rows = await connection.execute(select(sessions.c.id, sessions.c.spec).order_by(*order))
            found = [str(each.id) for each in rows if json.loads(each.spec).get("name") == name]
        return found[0] if found else None

    async def unname(self, name: str) -> None:
        """Take a name from the sessions that have it."""

        async def work(connection: AsyncConnection) -> None:
            rows = (await connection.execute(select(sessions.c.id, sessions.c.spec))).all()
            for each in rows:
                spec = json.loads(each.spec)
                if spec.pop("name", None) == name:
                    which = update(sessions).where(sessions.c.id == each.id)
                    await connection.execute(which.values(spec=json.dumps(spec)))

        await self._database.write(work)

    async def take_over(self, session_id: str) -> tuple[Writer, SessionRecord]:
        """The right to write a session, and what it was then.

        Whoever had the right has it no longer.
        """
        token = secrets.token_hex(16)

        async def work(connection: AsyncConnection) -> SessionRecord:
            which = sessions.c.id == session_id
            values = {"writer": token, "state": "open"}
            await connection.execute(update(sessions).where(which).values(**values))
            return await _get(connection, session_id)

        return Writer(session_id, token), await self._database.write(work)

    async def update(self, writer: Writer, **values: Any) -> None:
        """Change fields of a session.

        Raises:
            StoreError: Another host has taken it over; code `taken_over`.
        """

        async def work(connection: AsyncConnection) -> None:
            await may_write(connection, writer)
            if "spec" in values:
                values["spec"] = json.dumps(values["spec"])
            which = sessions.c.id == writer.scope
            changed = update(sessions).where(which).values(updated=time.time(), **values)
            await connection.execute(changed)

        await self._database.write(work)

    async def add_snapshot(
        self, writer: Writer, manifest: tuple[str, ...], *, files: int, size: int
    ) -> Snapshot:
        """Make a snapshot the session's newest; the one before it is forgotten."""
        now = time.time()

        async def work(connection: AsyncConnection) -> Snapshot:
            await may_write(connection, writer)
            mine = snapshots.c.session == writer.scope
            await connection.execute(delete(snapshots).where(mine))
            values = {"session": writer.scope, "created": now, "files": files, "bytes": size}
            new = insert(snapshots).values(manifest=json.dumps(manifest), **values)
            made = await connection.execute(new.returning(snapshots.c.number))
            number = int(made.scalar_one())
            which = sessions.c.id == writer.scope
            changed = update(sessions).where(which).values(snapshot=number, updated=now)
            await connection.execute(changed)
            return Snapshot(number, now, manifest, files, size)

        return await self._database.write(work)

    async def fork(self, session_id: str, new_id: str | None = None) -> str:
        """A second session that begins where this one was saved last.

        Returns:
            Its id.

        Raises:
            StoreError: There is no such session, or one of the new id.
        """
        target = new_id or str(uuid4())

        async def work(connection: AsyncConnection) -> None:
            record = await _get(connection, session_id)
            now = time.time()
            same = record.conversation == session_id
            spec = {field: value for field, value in record.spec.items() if field != "name"}
            await connection.execute(
                insert(sessions).values(
                    id=target,
                    agent=record.agent,
                    backend=record.backend,
                    spec=json.dumps(spec),
                    state="saved",
                    created=now,
                    updated=now,
                    conversation=target if same else record.conversation,
                    parent=session_id,
                )
            )
            await copy_lines(connection, session_id, target)
            if record.snapshot is not None:
                kept = record.snapshot
                values = {"created": kept.created, "files": kept.files, "bytes": kept.bytes}
                new = insert(snapshots).values(
                    session=target, manifest=json.dumps(kept.manifest), **values
                )
                made = await connection.execute(new.returning(snapshots.c.number))
                pointed = update(sessions).where(sessions.c.id == target)
                await connection.execute(pointed.values(snapshot=made.scalar_one()))

        await self._database.write(work)
        return target

    async def delete(self, session_id: str) -> None:
        """Forget a session and its conversation; nothing happens where there is none."""

        async def work(connection: AsyncConnection) -> None:
            mine = transcripts.c.scope == session_id
            numbers = select(transcripts.c.number).where(mine).scalar_subquery()
            await connection.execute(delete(entries).where(entries.c.transcript.in_(numbers)))
            await connection.execute(delete(transcripts).where(mine))
            await connection.execute(delete(snapshots).where(snapshots.c.session == session_id))
            await connection.execute(delete(sessions).where(sessions.c.id == session_id))

        await self._database.write(work)

    async def manifests(self) -> set[tuple[str, ...]]:
        """The manifests of all snapshots, each as the digests of its pieces."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(snapshots.c.manifest))).scalars().all()
        return {tuple(json.loads(row)) for row in rows}


async def _get(connection: AsyncConnection, session_id: str) -> SessionRecord:
    wanted = select(sessions).where(sessions.c.id == session_id)
    row = (await connection.execute(wanted)).mappings().one_or_none()
    if row is None:
        raise StoreError(
            f"There is no session {session_id} in the store.", code="no_session", retryable=False
        )
    return await _record(connection, row)


async def _record(connection: AsyncConnection, row: RowMapping) -> SessionRecord:
    fields: dict[str, Any] = {str(name): value for name, value in row.items() if name != "writer"}
    fields["spec"] = json.loads(row["spec"])
    if row["snapshot"] is not None:
        wanted = select(snapshots).where(snapshots.c.number == row["snapshot"])
        found = (await connection.execute(wanted)).mappings().one()
        kept: dict[str, Any] = {str(name): value for name, value in found.items()}
        kept["manifest"] = tuple(json.loads(kept["manifest"]))
        del kept["session"]
        fields["snapshot"] = Snapshot(**kept)
    return SessionRecord(**fields)
