"""What one `Sandbox` object says in the journal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sandboxkit.journal.rows import Row

if TYPE_CHECKING:
    from sandboxkit.journal.journal import Journal


class Entry:
    """A hold on a sandbox, from the intent to the end; made by `Journal`.

    Attributes:
        row: The sandbox.
        token: What tells this hold from others on the same sandbox.
    """

    def __init__(self, journal: Journal, row: Row, token: str) -> None:
        self._journal = journal
        self._over = False
        self.row, self.token = row, token

    async def made(self, sandbox_id: str) -> None:
        """The backend has made it."""
        self.row = replace(self.row, id=sandbox_id)
        await self._journal.attempt(lambda store: store.note_id(self.row.key, sandbox_id), None)

    async def renew(self, seconds: float) -> None:
        """It is held for so long from now on, and longer if this is said again."""
        if not self._over:
            await self._journal.attempt(
                lambda store: store.renew(self.row, self.token, seconds), None
            )

    async def keep(self, seconds: float) -> None:
        """It shall live on for so long without any host. This hold is over."""
        if not self._over:
            self._over = True
            await self._journal.attempt(lambda store: store.keep(self.token, seconds), None)

    async def release(self) -> None:
        """It is not held from here any more. Idempotent; after `keep` or `end`, nothing."""
        if not self._over:
            self._over = True
            await self._journal.attempt(lambda store: store.release(self.token), None)

    async def end(self, why: str) -> None:
        """It has ended."""
        self._over = True
        await self._journal.end(self.row.key, why)
