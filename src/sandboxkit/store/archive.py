"""The conversation of one session, as its agent keeps it."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import anyio

from sandboxkit.errors import StoreError
from sandboxkit.store.lines import Batch, Key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandboxkit.store.lines import Fold, Lines
    from sandboxkit.store.transcripts import Transcripts

log = logging.getLogger(__name__)

_RECORDS: Final = "records"  # where a transcript has the name of its project


class Archive:
    """Conversations of one session; what others keep does not exist for it.

    What is added is in the database when the call returns. Where the database fails, it is kept
    in memory, in its order, and tried again with what comes next, and by `settle`: an outage
    neither ends a turn nor loses a message.

    Args:
        lines: The session's lines.

    Attributes:
        failure: Why something is not in the database; None where all is.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._waiting: deque[tuple[Batch, Fold | None]] = deque()
        self._one = anyio.Lock()
        self.failure: StoreError | None = None

    def transcripts(self) -> Transcripts:
        """A `SessionStore` for the `claude-agent-sdk`."""
        from sandboxkit.store.transcripts import Transcripts

        return Transcripts(self._lines, self._append)

    async def load(self, session_id: str) -> list[dict[str, Any]] | None:
        """The records of a conversation, oldest first; None where there is none.

        Raises:
            StoreError: They cannot be read.
        """
        await self.settle()
        return await self._lines.load(Key(_RECORDS, session_id))

    async def append(self, session_id: str, records: Sequence[dict[str, Any]]) -> None:
        """Add records to a conversation; not cut by cancellation."""
        await self._append(Batch.of(Key(_RECORDS, session_id), records), None)

    async def _append(self, batch: Batch, fold: Fold | None) -> None:
        self._waiting.append((batch, fold))
        try:
            await self.settle()
        except StoreError as error:
            log.warning("What was said is not saved yet: %s", error)

    async def settle(self) -> None:
        """Bring into the database what is not there yet.

        Raises:
            StoreError: It does not take it.
        """
        async with self._one:
            while self._waiting:
                try:
                    # Tried twice, it is there once; so it may be forgotten late.
                    await self._lines.append(*self._waiting[0])
                except StoreError as error:
                    self.failure = error
                    raise
                self._waiting.popleft()
            self.failure = None
