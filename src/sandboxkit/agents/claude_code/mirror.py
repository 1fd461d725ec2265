"""The transcript on its way from a lasting CLI into a store: no line is lost, or kept twice.

The CLI says each line of its transcript in its output, too, and the SDK brings them to the
store in its own time. A host that dies before that has read them in vain: so they are not
acknowledged until the store has them, and come again to the next host. What then comes a
second time is known by its place in the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from claude_agent_sdk import SessionStore

if TYPE_CHECKING:
    from claude_agent_sdk import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStoreEntry,
        SessionStoreListEntry,
        SessionSummaryEntry,
    )


class MirroredLine(dict[str, Any]):
    """A line of the transcript.

    Attributes:
        begin: Where the message begins that brings it, in the CLI's output.
        once: What makes it the same line for a store, whichever host brings it.
    """

    __slots__ = ("begin", "once")

    def __init__(self, line: dict[str, Any], begin: int, once: str) -> None:
        super().__init__(line)
        self.begin, self.once = begin, once


def mirrored_lines(message: dict[str, Any], begin: int, process_id: str) -> list[MirroredLine]:
    """The lines that a message brings; none where it brings something else."""
    found: object = message.get("entries")
    if message.get("type") != "transcript_mirror" or not isinstance(found, list):
        return []
    lines = cast("list[object]", found)
    if not all(isinstance(line, dict) for line in lines):
        return []
    return [
        MirroredLine(cast("dict[str, Any]", line), begin, f"{process_id}@{begin}.{number}")
        for number, line in enumerate(lines)
    ]


class MirroredStore(SessionStore):
    """A store that says which lines it has.

    Args:
        store: The store.
        kept: Called with lines that it has.
        is_behind: Whether it has taken lines that it may still lose.
    """

    def __init__(
        self,
        store: SessionStore,
        kept: Callable[[Sequence[MirroredLine]], None],
        is_behind: Callable[[], bool],
    ) -> None:
        self._store = store
        self._kept = kept
        self._is_behind = is_behind
        self._taken: list[MirroredLine] = []

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """See `SessionStore.append`."""
        await self._store.append(key, entries)
        items = cast("list[object]", entries)
        self._taken += [item for item in items if isinstance(item, MirroredLine)]
        if not self._is_behind():
            kept, self._taken = self._taken, []
            self._kept(kept)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """See `SessionStore.load`."""
        return await self._store.load(key)

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """See `SessionStore.list_sessions`."""
        return await self._store.list_sessions(project_key)

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """See `SessionStore.list_session_summaries`."""
        return await self._store.list_session_summaries(project_key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """See `SessionStore.list_subkeys`."""
        return await self._store.list_subkeys(key)

    async def delete(self, key: SessionKey) -> None:
        """See `SessionStore.delete`."""
        await self._store.delete(key)
