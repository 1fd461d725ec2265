"""The `SessionStore` of the `claude-agent-sdk`, on the store's database."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from claude_agent_sdk import (
    SessionKey,
    SessionListSubkeysKey,
    SessionStore,
    SessionStoreEntry,
    SessionStoreListEntry,
    SessionSummaryEntry,
    fold_session_summary,
)

from sandboxkit.store.lines import Batch, Key, Lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandboxkit.store.lines import Fold

    Append = Callable[[Batch, Fold | None], Awaitable[None]]


class Transcripts(SessionStore):
    """Claude Code's transcripts, for `ClaudeAgentOptions(session_store=...)`.

    Args:
        lines: Where they are; what another scope holds does not exist for it.
        append: What an append goes through; None is `lines.append`, which raises.
    """

    def __init__(self, lines: Lines, append: Append | None = None) -> None:
        self._lines = lines
        self._append = append or lines.append

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """See `SessionStore.append`. Entries with a `uuid` that is there are left out."""
        if not entries:
            return
        fold = None if key.get("subpath") else partial(_fold, key=key, entries=entries)
        await self._append(Batch.of(_key(key), entries), fold)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """See `SessionStore.load`."""
        return cast("list[SessionStoreEntry] | None", await self._lines.load(_key(key)))

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """See `SessionStore.list_sessions`."""
        found = await self._lines.keys(project_key=project_key)
        return [
            {"session_id": key.session_id, "mtime": mtime}
            for key, mtime, _ in found
            if not key.subpath
        ]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """See `SessionStore.list_session_summaries`."""
        found = await self._lines.keys(project_key=project_key)
        return [
            cast("SessionSummaryEntry", {**json.loads(summary), "mtime": mtime})
            for _, mtime, summary in found
            if summary is not None
        ]

    async def delete(self, key: SessionKey) -> None:
        """See `SessionStore.delete`."""
        await self._lines.delete(_key(key))

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """See `SessionStore.list_subkeys`."""
        found = await self._lines.keys(project_key=key["project_key"], session_id=key["session_id"])
        return [each.subpath for each, _, _ in found if each.subpath]


def _key(key: SessionKey) -> Key:
    return Key(key["project_key"], key["session_id"], key.get("subpath", ""))


def _fold(
    before: dict[str, Any] | None, *, key: SessionKey, entries: list[SessionStoreEntry]
) -> dict[str, Any]:
    last = cast("SessionSummaryEntry | None", before)
    return cast("dict[str, Any]", fold_session_summary(last, key, entries))
