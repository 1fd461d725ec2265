"""Brings a conversation from a `SessionStore` into the sandbox.

The SDK resumes from a store for its local transport only, by way of files on the host
into which it copies the user's credentials too. Here the store's content goes straight
into the agent's directory in the sandbox, and nothing else does.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import anyio

from sandboxkit.agents.claude_code import sdk

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions, SessionKey, SessionStore, SessionStoreEntry

    from sandboxkit.agents.claude_code.place import Place

T = TypeVar("T")


async def bring_conversation(options: ClaudeAgentOptions, place: Place) -> ClaudeAgentOptions:
    """Put the conversation that `options` take up into the sandbox, if a store has it.

    Returns:
        Options that resume it; `options` themselves where there is none to bring, as with
        the SDK: the CLI then looks for itself.

    Raises:
        RuntimeError: The store failed, or took longer than `load_timeout_ms`.
    """
    store = options.session_store
    if store is None or not (options.resume or options.continue_conversation):
        return options
    loader = _Loader(store, sdk.project_key(place.cwd), options.load_timeout_ms / 1000)
    if options.resume:
        session_id = options.resume
        entries = await loader.load(session_id) if _is_uuid(session_id) else None
    else:
        session_id, entries = await loader.newest()
    if not entries:
        return options
    root = f"projects/{loader.project_key}/{session_id}"
    await place.upload(f"{root}.jsonl", _jsonl(entries))
    for subpath, lines in await loader.sub_agents(session_id):
        metadata, transcript = sdk.split_agent_metadata(lines)
        if transcript:
            await place.upload(f"{root}/{subpath}.jsonl", _jsonl(transcript))
        if metadata is not None:
            content = {name: value for name, value in metadata.items() if name != "type"}
            await place.upload(f"{root}/{subpath}.meta.json", json.dumps(content).encode())
    return replace(options, resume=session_id, continue_conversation=False)


class _Loader:
    """The sessions of one working directory in a store."""

    def __init__(self, store: SessionStore, project_key: str, deadline_s: float) -> None:
        self._store = store
        self._deadline_s = deadline_s
        self.project_key = project_key

    async def load(self, session_id: str) -> list[SessionStoreEntry] | None:
        key: SessionKey = {"project_key": self.project_key, "session_id": session_id}
        return await self._ask(self._store.load(key), f"load() of session {session_id}")

    async def newest(self) -> tuple[str, list[SessionStoreEntry] | None]:
        """The last conversation of the user's; those of sub-agents do not count."""
        listed = await self._ask(self._store.list_sessions(self.project_key), "list_sessions()")
        for session in sorted(listed, key=lambda entry: entry["mtime"], reverse=True):
            if not _is_uuid(session["session_id"]):
                continue
            entries = await self.load(session["session_id"])
            if entries and not entries[0].get("isSidechain"):
                return session["session_id"], entries
        return "", None

    async def sub_agents(self, session_id: str) -> list[tuple[str, list[SessionStoreEntry]]]:
        """The sub-agents' part of a conversation, by the names of their files."""
        try:
            subpaths = await self._ask(
                self._store.list_subkeys(
                    {"project_key": self.project_key, "session_id": session_id}
                ),
                "list_subkeys()",
            )
        except (NotImplementedError, AttributeError):  # the protocol leaves it open
            return []
        found: list[tuple[str, list[SessionStoreEntry]]] = []
        for subpath in filter(_is_safe, subpaths):
            key: SessionKey = {
                "project_key": self.project_key,
                "session_id": session_id,
                "subpath": subpath,
            }
            entries = await self._ask(self._store.load(key), f"load() of {subpath}")
            if entries:
                found.append((subpath, entries))
        return found

    async def _ask(self, answer: Awaitable[T], what: str) -> T:
        try:
            with anyio.fail_after(self._deadline_s):
                return await answer
        except TimeoutError as error:
            raise RuntimeError(
                f"SessionStore.{what} did not answer within {self._deadline_s:g} s on resume"
            ) from error
        except NotImplementedError:
            raise
        except Exception as error:
            raise RuntimeError(f"SessionStore.{what} failed on resume: {error}") from error


def _jsonl(entries: list[SessionStoreEntry]) -> bytes:
    return "".join(f"{json.dumps(entry, separators=(',', ':'))}\n" for entry in entries).encode()


def _is_uuid(value: str) -> bool:
    try:
        return str(UUID(value)) == value.lower()
    except ValueError:
        return False


def _is_safe(subpath: str) -> bool:
    """Whether a name out of the store stays below the session's directory."""
    parts = subpath.split("/")
    return subpath.isprintable() and "\\" not in subpath and not {"", ".", ".."} & set(parts)
