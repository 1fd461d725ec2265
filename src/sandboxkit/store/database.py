"""The database of a store: SQLite or PostgreSQL, by the same code."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import event, insert, inspect, select, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import InvalidSpecError, SandboxError, StoreError
from sandboxkit.store.tables import SCHEMA, metadata, schema

T = TypeVar("T")

DEADLINE_S: Final = 30.0
"""Seconds for one transaction."""

_BUSY_MS: Final = 20_000
_LOCK: Final = 0x73616E64626F78  # of PostgreSQL's advisory locks, while tables are made
_DRIVERS: Final = {
    "sqlite": ("aiosqlite",),
    "postgresql": ("asyncpg", "psycopg"),
    "postgres": ("asyncpg", "psycopg"),
}


class Database:
    """Connections and transactions; opened by the first use, on the event loop of that.

    Args:
        url: Such as `sqlite:///records.db` or `postgresql://user@host/name`.

    Raises:
        InvalidSpecError: It is no URL, or of another kind of database.
        ImportError: The driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = _with_driver(url)
        self._engine: AsyncEngine | None = None
        self._opening = anyio.Lock()

    def __repr__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    @property
    def directory(self) -> Path | None:
        """Where an SQLite file lies."""
        file = self._url.database
        return Path(file).parent if file and self._url.get_backend_name() == "sqlite" else None

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that changes nothing.

        Raises:
            StoreError: The database does not answer, or took longer than `DEADLINE_S`.
        """
        with self._mapped():
            engine = await self._opened()
            with anyio.fail_after(DEADLINE_S):
                async with engine.connect() as plain:
                    yield await plain.execution_options(sandboxkit_reads=True)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do `work` in one transaction, to its end: all of it is kept, or nothing.

        Cancelling the caller does not cut it short.

        Raises:
            StoreError: As for `reading`. After an outage it may have been kept none the less.
        """
        with self._mapped():
            engine = await self._opened()
            return await run_to_end(_within(engine, work), deadline_s=DEADLINE_S)

    async def aclose(self) -> None:
        """Close all connections. Idempotent; the next use opens new ones."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await run_to_end(engine.dispose(), deadline_s=DEADLINE_S)

    async def _opened(self) -> AsyncEngine:
        async with self._opening:
            if self._engine is None:
                # The driver's import and the file's directory are the thread's to wait for.
                engine = await anyio.to_thread.run_sync(self._make)
                try:
                    await run_to_end(_within(engine, _set_up), deadline_s=DEADLINE_S)
                except BaseException:
                    await run_to_end(engine.dispose(), deadline_s=DEADLINE_S)
                    raise
                self._engine = engine
            return self._engine

    def _make(self) -> AsyncEngine:
        if self._url.get_backend_name() == "sqlite":
            if self._url.database:
                _make_file(Path(self._url.database))
            engine = create_async_engine(self._url, hide_parameters=True)
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
            return engine
        return create_async_engine(self._url, hide_parameters=True, pool_pre_ping=True)

    @contextlib.contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except SandboxError:
            raise
        except TimeoutError as error:
            raise StoreError(
                f"The store {self!r} did not answer within {DEADLINE_S:g} s.",
                code="unavailable",
                retryable=True,
            ) from error
        except Exception as error:
            told = error.orig if isinstance(error, DBAPIError) and error.orig else error
            raise StoreError(
                f"The store {self!r} failed: {told}", code="unavailable", retryable=True
            ) from error


def _with_driver(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidSpecError(
            "the store is not a URL such as sqlite:///records.db or postgresql://user@host/name"
        ) from None
    kind, _, driver = parsed.drivername.partition("+")
    if kind not in _DRIVERS:
        raise InvalidSpecError(f"a store is kept in SQLite or PostgreSQL, not in {kind!r}")
    drivers = (driver,) if driver else _DRIVERS[kind]
    found = next((name for name in drivers if find_spec(name)), None)
    if found is None:
        raise ImportError(
            f'{kind} needs the package {" or ".join(drivers)}: pip install "sandboxkit[store]"'
        )
    return parsed.set(drivername=f"{'postgresql' if kind == 'postgres' else kind}+{found}")


async def _within(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async with engine.begin() as connection:
        return await work(connection)


def _make_file(path: Path) -> None:
    """For its owner alone: it holds what was said."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin as `_begin_sqlite` says
    cursor: sqlite3.Cursor = connection.cursor()
    # FULL: a commit that was acknowledged outlives a loss of power.
    for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("sandboxkit_reads")
    # A transaction that reads first and writes then could not wait for another writer.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


async def _set_up(connection: AsyncConnection) -> None:
    """Make the tables where there are none, and refuse those of a newer sandboxkit."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if await connection.run_sync(lambda sync: inspect(sync).has_table(schema.name)):
        version = (await connection.execute(select(schema.c.version))).scalar_one()
        if version > SCHEMA:
            raise StoreError(
                f"The store was written by a newer sandboxkit: its tables have version {version}, "
                f"this one knows {SCHEMA}. Upgrade sandboxkit, or give another database.",
                code="newer_schema",
                retryable=False,
            )
        return
    await connection.run_sync(metadata.create_all)
    await connection.execute(insert(schema).values(version=SCHEMA))
