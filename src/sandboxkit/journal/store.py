"""The journal's file: SQLite, for many processes at once. Everything here may block."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from sandboxkit.journal import locks
from sandboxkit.journal.moments import Moment, now
from sandboxkit.journal.rows import Hold, Row

T = TypeVar("T")

VERSION: Final = 1
_BUSY_S: Final = 1.0
_AGAIN_S: Final = 0.01
_MEMORY_S: Final = 7 * 86_400.0  # for how long what has ended is remembered
_SCHEMA: Final = (
    """CREATE TABLE sandboxes (
        key TEXT PRIMARY KEY, provider TEXT NOT NULL, account TEXT NOT NULL, id TEXT,
        owner TEXT NOT NULL, session TEXT NOT NULL, created REAL NOT NULL,
        lease_s REAL NOT NULL, ended REAL, why TEXT, remover TEXT)""",
    """CREATE TABLE holds (
        token TEXT PRIMARY KEY, key TEXT NOT NULL REFERENCES sandboxes ON DELETE CASCADE,
        holder TEXT NOT NULL, pid INTEGER NOT NULL, machine TEXT NOT NULL,
        boot TEXT NOT NULL, ticks REAL NOT NULL, wall REAL NOT NULL)""",
    "CREATE INDEX holds_by_key ON holds (key)",
    f"PRAGMA user_version = {VERSION}",
)


class NewerError(Exception):
    """The file was written by a later sandboxkit, which may mean other things by it."""


class Store:
    """The file, for one thread.

    Args:
        path: Where it is. Beside it are the locks of the processes that use it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locks = path.with_name(path.name + ".holders")
        self._open: tuple[sqlite3.Connection, tuple[int, int]] | None = None

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._open is not None:
            self._open[0].close()
            self._open = None

    # what a host says

    def intend(self, row: Row, token: str, seconds: float) -> None:
        """A backend is about to be asked for this; the process holds it from now on."""
        with self._change() as db:
            db.execute("DELETE FROM sandboxes WHERE ended < ?", (time.time() - _MEMORY_S,))
            self._add(db, row)
            self._hold(db, row.key, token, seconds)

    def hold(self, row: Row, token: str, seconds: float) -> bool:
        """The process holds this, too; False where somebody is just removing it."""
        with self._change() as db:
            found = db.execute("SELECT remover FROM sandboxes WHERE key = ?", (row.key,)).fetchone()
            if found is None:
                self._add(db, row)
            elif found[0] and self._lives(found[0]):
                return False
            else:  # whoever said that it has ended was wrong
                db.execute(
                    "UPDATE sandboxes SET ended = NULL, why = NULL, remover = NULL WHERE key = ?",
                    (row.key,),
                )
            self._hold(db, row.key, token, seconds)
            return True

    def note_id(self, key: str, sandbox_id: str) -> None:
        """The backend has made it, with this id."""
        with self._change() as db:
            db.execute("UPDATE sandboxes SET id = ? WHERE key = ?", (sandbox_id, key))

    def renew(self, row: Row, token: str, seconds: float) -> None:
        """Its lease ends so many seconds from now. A file that has lost it is told again."""
        with self._change() as db:
            renewed = self._put_off(db, token, seconds)
            known = db.execute("SELECT 1 FROM sandboxes WHERE key = ?", (row.key,)).fetchone()
            if not renewed and known is None:
                self._add(db, row)
                self._hold(db, row.key, token, seconds)

    def _put_off(self, db: sqlite3.Connection, token: str, seconds: float) -> bool:
        until = now().after(seconds)
        done = db.execute(
            "UPDATE holds SET boot = ?, ticks = ?, wall = ? WHERE token = ?",
            (until.boot, until.ticks, until.wall, token),
        )
        return done.rowcount > 0

    def keep(self, token: str, seconds: float) -> None:
        """Nobody holds it from now on, and it lives on for so long."""
        with self._change() as db:
            self._put_off(db, token, seconds)
            db.execute("UPDATE holds SET holder = '' WHERE token = ?", (token,))

    def release(self, token: str) -> None:
        """It is not held by this one any more."""
        with self._change() as db:
            db.execute("DELETE FROM holds WHERE token = ?", (token,))

    def end(self, key: str, why: str) -> None:
        """It has ended."""
        with self._change() as db:
            db.execute("DELETE FROM holds WHERE key = ?", (key,))
            db.execute(
                "UPDATE sandboxes SET ended = ?, why = ?, remover = NULL "
                "WHERE key = ? AND ended IS NULL",
                (time.time(), why, key),
            )

    # what a reaper asks

    def rows(self) -> list[Row]:
        """All that is remembered."""
        db = self._connected()
        found: list[tuple[str, str, str, str | None, str, str, float, float, float | None]]
        found = db.execute(
            "SELECT key, provider, account, id, owner, session, created, lease_s, ended "
            "FROM sandboxes"
        ).fetchall()
        holds: dict[str, list[Hold]] = {}
        for key, *rest in db.execute(
            "SELECT key, token, holder, pid, machine, boot, ticks, wall FROM holds"
        ).fetchall():
            holds.setdefault(key, []).append(self._judged(rest))
        locks.sweep(self._locks)
        return [Row(*each, tuple(holds.get(each[0], ()))) for each in found]

    def condemn(self, key: str) -> bool:
        """Whether this process may remove it: no other removes it, and no lease runs.

        That is the lease of a living process, or of one that left it to live on.

        Who attaches from now on is told that it is gone.
        """
        with self._change() as db:
            found = db.execute("SELECT remover FROM sandboxes WHERE key = ?", (key,)).fetchone()
            if found is None:
                return True
            ours = locks.holder(self._locks)
            if found[0] and found[0] != ours and self._lives(found[0]):
                return False
            moment = now()
            for holder, *until in db.execute(
                "SELECT holder, boot, ticks, wall FROM holds WHERE key = ?", (key,)
            ).fetchall():
                if moment.until(Moment(*until)) > 0 and (not holder or self._lives(holder)):
                    return False
            db.execute("UPDATE sandboxes SET remover = ? WHERE key = ?", (ours, key))
            return True

    def pardon(self, key: str) -> None:
        """It was not removed after all."""
        with self._change() as db:
            db.execute("UPDATE sandboxes SET remover = NULL WHERE key = ?", (key,))

    # below

    def _add(self, db: sqlite3.Connection, row: Row) -> None:
        db.execute(
            "INSERT OR REPLACE INTO sandboxes "
            "(key, provider, account, id, owner, session, created, lease_s) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.key, row.provider, row.account, row.id),
                *(row.owner, row.session, row.created, row.lease_s),
            ),
        )

    def _hold(self, db: sqlite3.Connection, key: str, token: str, seconds: float) -> None:
        until = now().after(seconds)
        db.execute(
            "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(token, key, locks.holder(self._locks), os.getpid(), socket.gethostname()),
                *(until.boot, until.ticks, until.wall),
            ),
        )

    def _judged(self, columns: Sequence[object]) -> Hold:
        token, holder, pid, machine, boot, ticks, wall = columns
        until = Moment(str(boot), float(str(ticks)), float(str(wall)))
        alive: bool | None = False
        if holder:
            # A lock tells of processes under this kernel; another one's cannot be seen here.
            here = until.boot == now().boot or machine == socket.gethostname()
            alive = self._lives(str(holder)) if here else None
        return Hold(str(token), str(holder), int(str(pid)), str(machine), until, alive)

    def _lives(self, holder: str) -> bool:
        return locks.lives(self._locks, holder)

    def attempt(self, job: Callable[[], T]) -> T:
        """Do one of the above; a file that turns out to be damaged is replaced.

        Raises:
            OSError: The directory or the file cannot be used.
            sqlite3.Error: The file cannot be used, or is busy.
            NewerError: It is a later version's.
        """
        try:
            return job()
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # busy, read-only, full
                raise
        self.close()
        self._set_aside()
        return job()

    @contextlib.contextmanager
    def _change(self) -> Generator[sqlite3.Connection]:
        db = self._connected()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        """The connection, to the file that now has the name."""
        if self._open is not None:
            db, file = self._open
            if file == self._file():
                return db
            self.close()
        db = self._connect()
        self._open = db, self._file() or (0, 0)
        return db

    def _file(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What SQLite makes beside the file gets the file's mode.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            _write_ahead(db)
            # A killed process loses nothing by this; a power cut the last moments, perhaps,
            # and then the labels at the backend remain.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA foreign_keys = ON")
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        if _version(db) == VERSION:
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            version = _version(db)
            if version > VERSION:
                raise NewerError(f"{self._path} has version {version}, and this knows {VERSION}")
            if version < VERSION:
                for statement in _SCHEMA:
                    db.execute(statement)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _set_aside(self) -> None:
        """A file that is no database makes room for a new one, and is kept."""
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._file() != (os.fstat(fd).st_dev, os.fstat(fd).st_ino):
                return  # another process was quicker
            name = f"{self._path.name}.damaged-{int(time.time())}"
            for suffix in ("-wal", "-shm", ""):
                beside = self._path.with_name(self._path.name + suffix)
                with contextlib.suppress(FileNotFoundError):
                    beside.rename(self._path.with_name(name + suffix))
        except BlockingIOError:
            raise sqlite3.OperationalError("the damaged journal is just being replaced") from None
        finally:
            os.close(fd)


def _write_ahead(db: sqlite3.Connection) -> None:
    """Many processes at once; of those that turn it on together, SQLite lets none wait."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_S)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
