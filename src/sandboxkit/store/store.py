"""`Store`: where sessions are kept outside of their sandboxes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sandboxkit.state_directory import state_directory
from sandboxkit.store.blobs import SWEEP_S, Blobs
from sandboxkit.store.database import Database
from sandboxkit.store.lines import Lines, Writer
from sandboxkit.store.restore import load_manifest
from sandboxkit.store.sessions import SessionRecord, Sessions

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from sandboxkit.store.transcripts import Transcripts


class Store:
    """Keeps sessions: records and conversations in a database, files in a folder or a bucket.

    ```python
    async with Store() as store:
        for record in await store.list():
            print(record.id, record.agent, record.state)
    ```

    It belongs to the event loop that uses it first. Several programs may use one store.

    Args:
        url: The database: `sqlite:///records.db`, `postgresql://user@host/name`; None is
            `store.db` in the user's state directory.
        files: A directory; or a URL such as `s3://bucket/path`, `gs://...` or `az://...`, with
            the credentials where that service's own tools find them; or an object of `obstore`.
            None is `files` beside an SQLite file; PostgreSQL, which several machines may use,
            needs it said, else it is `files` in the user's state directory of each.

    Raises:
        InvalidSpecError: A URL is none.
        ImportError: What it needs is not installed.
    """

    def __init__(
        self, url: str | None = None, *, files: str | Path | ObjectStore | None = None
    ) -> None:
        self._database = Database(url or f"sqlite:///{state_directory() / 'store.db'}")
        beside = self._database.directory or state_directory()
        self.blobs = Blobs(beside / "files" if files is None else files)
        self.sessions = Sessions(self._database)

    def __repr__(self) -> str:
        return f"<Store {self._database!r} {self.blobs!r}>"

    async def list(self) -> list[SessionRecord]:
        """The sessions, the last saved one first."""
        return await self.sessions.all()

    async def get(self, session_id: str) -> SessionRecord:
        """One session.

        Raises:
            StoreError: There is none; code `no_session`.
        """
        return await self.sessions.get(session_id)

    async def fork(self, session_id: str) -> str:
        """A second session that begins where this one was saved last.

        Returns:
            Its id, for `Session.resume`.
        """
        return await self.sessions.fork(session_id)

    async def sweep(self, *, older_s: float = SWEEP_S) -> int:
        """Remove the pieces of files that no session has any more; how many.

        Args:
            older_s: Seconds that a piece is left alone after it was stored. Less than a day is
                safe only where no other program uses the store.

        Raises:
            StoreError: It could not be done; or a session's list of files is damaged, and then
                nothing is removed.
        """

        async def wanted() -> set[str]:
            found: set[str] = set()
            for manifest in await self.sessions.manifests():
                tree = await load_manifest(self.blobs, manifest)
                found |= {*manifest, *tree.digests()}
            return found

        return await self.blobs.sweep(wanted, older_s=older_s)

    async def delete(self, session_id: str) -> None:
        """Forget a session, not its files (see `sweep`); nothing happens where there is none."""
        await self.sessions.delete(session_id)

    def transcripts(self) -> Transcripts:
        """A `SessionStore` for `ClaudeAgentOptions`, without a `Session` of sandboxkit.

        What sessions of sandboxkit keep does not exist for it.

        Raises:
            ImportError: `claude-agent-sdk` is not installed.
        """
        from sandboxkit.store.transcripts import Transcripts

        return Transcripts(self.lines(Writer()))

    def lines(self, writer: Writer) -> Lines:
        """The lines of one session, for who may write them."""
        return Lines(self._database, writer)

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._database.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
