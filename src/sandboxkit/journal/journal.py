"""The journal, as an event loop uses it: it is waited for, but not for long."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import SandboxNotFoundError
from sandboxkit.journal.entry import Entry
from sandboxkit.journal.rows import IMAGE, Row
from sandboxkit.journal.store import NewerError, Store
from sandboxkit.journal.worker import Worker
from sandboxkit.providers.info import SandboxInfo
from sandboxkit.spec import KEY_LABEL, LEASE_LABEL, OWNER_LABEL, SESSION_LABEL
from sandboxkit.state_directory import state_directory

T = TypeVar("T")

log = logging.getLogger(__name__)

VARIABLE: Final = "SANDBOXKIT_JOURNAL"
_WAIT_S: Final = 3.0
_CLOSE_S: Final = 0.5
_CREATE_S: Final = 300.0  # that a creation may take beyond the lease, before any heartbeat


class Journal:
    """What this user's processes have asked backends for.

    Nothing here raises because of the file: a sandbox is created, and ended, without it. That
    is said once, as a warning of the log.

    Args:
        path: Where it is; called in a thread. None, as its result, is no journal at all.
    """

    def __init__(self, path: Callable[[], Path | None]) -> None:
        self._path = path
        self._store: Store | None = None
        self._worker = Worker("sandboxkit-journal")
        self._warned = False

    async def intend(
        self, provider: str, account: str, labels: dict[str, str], lease_s: float
    ) -> Entry:
        """Write down what a backend is about to be asked for.

        Args:
            provider: Its name.
            account: `SandboxProvider.account()`.
            labels: Those of the spec, with ours.
            lease_s: The lease.
        """
        row = _row(provider, account, labels, None, lease_s)
        entry = Entry(self, row, secrets.token_hex(8))
        async with _released_if_cancelled(entry):
            await self.attempt(
                lambda store: store.intend(row, entry.token, lease_s + _CREATE_S), None
            )
        return entry

    async def attached(self, account: str, info: SandboxInfo, lease_s: float) -> Entry:
        """Write down that a sandbox has been taken up.

        Raises:
            SandboxNotFoundError: Another process is just removing it, as nobody wanted it.
        """
        row = _row(info.provider, account, dict(info.labels), info.id, lease_s)
        entry = Entry(self, row, secrets.token_hex(8))
        async with _released_if_cancelled(entry):
            held = await self.attempt(
                lambda store: store.hold(row, entry.token, lease_s + _CREATE_S), otherwise=True
            )
        if not held:
            raise SandboxNotFoundError(
                f"This sandbox is just being removed, as nobody held it: {info.id}.",
                op="attach",
                provider=info.provider,
                sandbox_id=info.id,
                retryable=False,
            )
        return entry

    async def image(self, account: str, name: str, made_of: SandboxInfo) -> Entry:
        """Write down that there is an image of a sandbox, which is this process's alone.

        Args:
            account: `SandboxProvider.account()`.
            name: The image, as `SandboxHandle.snapshot` returned it.
            made_of: The sandbox.
        """
        labels = {**made_of.labels, KEY_LABEL: f"{IMAGE}{name}"}
        row = _row(made_of.provider, account, labels, name, 0.0)
        entry = Entry(self, row, secrets.token_hex(8))
        async with _released_if_cancelled(entry):
            await self.attempt(lambda store: store.hold(row, entry.token, 0.0), otherwise=True)
        return entry

    async def rows(self) -> dict[str, Row]:
        """All that is remembered, by key; empty where the journal cannot be read."""
        rows: list[Row] = await self.attempt(lambda store: store.rows(), [])
        return {row.key: row for row in rows}

    async def condemn(self, key: str) -> bool:
        """Whether this process may remove it; see `Store.condemn`."""
        return await self.attempt(lambda store: store.condemn(key), otherwise=True)

    async def pardon(self, key: str) -> None:
        """It was not removed after all."""
        await self.attempt(lambda store: store.pardon(key), None)

    async def end(self, key: str, why: str) -> None:
        """It has ended."""
        await self.attempt(lambda store: store.end(key, why), None)

    async def attempt(self, job: Callable[[Store], T], otherwise: T) -> T:
        """Do something with the file; where that fails, `otherwise` is the result."""

        def work() -> T:
            store = self._opened()
            return otherwise if store is None else store.attempt(lambda: job(store))

        try:
            return await self._worker.do(work, wait_s=_WAIT_S)
        except TimeoutError:
            self._warn("it does not answer")
        except (OSError, sqlite3.Error, NewerError) as error:
            self._warn(str(error))
        return otherwise

    def close(self) -> None:
        """Close the file, at the end of the program."""
        store = self._store
        if store is not None:
            self._worker.finish(store.close, wait_s=_CLOSE_S)

    def _opened(self) -> Store | None:
        if self._store is None and (path := self._path()) is not None:
            self._store = Store(path)
        return self._store

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "sandboxkit's journal cannot be used (%s). Sandboxes are created without it; what "
                "a killed host leaves is then known by its labels alone. %s names another file, "
                "or is `off`.",
                why,
                VARIABLE,
            )


def _row(
    provider: str, account: str, labels: dict[str, str], sandbox_id: str | None, lease_s: float
) -> Row:
    lease = labels.get(LEASE_LABEL, "")
    return Row(
        key=labels.get(KEY_LABEL, f"{provider} {sandbox_id}"),
        provider=provider,
        account=account,
        id=sandbox_id,
        owner=labels.get(OWNER_LABEL, ""),
        session=labels.get(SESSION_LABEL, ""),
        created=time.time(),
        lease_s=float(lease) if lease.replace(".", "", 1).isdigit() else lease_s,
    )


def journal() -> Journal:
    """The user's: `SANDBOXKIT_JOURNAL`, else `$XDG_STATE_HOME/sandboxkit/journal.db`.

    `off` is none.
    """
    setting = tuple(os.environ.get(name, "") for name in (VARIABLE, "XDG_STATE_HOME", "HOME"))
    with _lock:
        if setting not in _journals:
            _journals[setting] = Journal(lambda: _path(setting))
        return _journals[setting]


def _path(setting: tuple[str, ...]) -> Path | None:
    chosen, state, _home = setting
    if chosen:
        return None if chosen == "off" else Path(chosen).expanduser().absolute()
    return state_directory(state) / "journal.db"


def _close() -> None:
    for each in list(_journals.values()):
        each.close()


def _forget() -> None:
    """A forked child begins anew: SQLite's connections must not cross a fork, not even to close."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    _parents.extend(_journals.values())
    _journals.clear()


_lock = threading.Lock()
_journals: dict[tuple[str, ...], Journal] = {}
_parents: list[Journal] = []
atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@asynccontextmanager
async def _released_if_cancelled(entry: Entry) -> AsyncGenerator[None]:
    """What is being written for nobody any more is still written, and then taken back."""
    try:
        yield
    except BaseException:
        await run_to_end(entry.release(), deadline_s=_WAIT_S)
        raise
