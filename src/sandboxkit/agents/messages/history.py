"""The conversation as the API gets it, and where it is kept on the host."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import anyio.to_thread

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandboxkit.agents.messages.tools.tool import Block

log = logging.getLogger(__name__)

UNANSWERED: Final = "The agent was stopped before this had a result."
"""What the model reads in place of a result that there is not."""

_WRITE_S: Final = 30.0


class Keep(Protocol):
    """Where conversations are kept, as records.

    A record is a message, or `{"cut": n}`, which takes away all but the first `n`.
    """

    async def load(self, session_id: str) -> list[Block] | None:
        """The records of a conversation, oldest first; None where there is none."""
        ...

    async def append(self, session_id: str, records: Sequence[Block]) -> None:
        """Add records; not cut by cancellation."""
        ...


class History:
    """The messages of one conversation, oldest first. Each call of a tool has its result.

    Attributes:
        messages: As the Messages API takes them. Changed only by the methods here.
    """

    def __init__(
        self, messages: Sequence[Block] = (), keep: Keep | None = None, session_id: str = ""
    ) -> None:
        self.messages: list[Block] = list(messages)
        self._keep, self._session_id = keep, session_id
        self._unsaved: list[Block] = []
        self._closed = False

    def add(self, role: str, content: Sequence[Block]) -> None:
        """Add a message."""
        message: Block = {"role": role, "content": list(content)}
        self.messages.append(message)
        self._unsaved.append(message)

    def cut(self, length: int) -> None:
        """Take away all but the first `length` messages."""
        if length < len(self.messages):
            del self.messages[length:]
            self._unsaved.append({"cut": length})

    def answer_open_calls(self) -> None:
        """Give a result to the calls that have none, as the API demands."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return
        calls = [b["id"] for b in self.messages[-1]["content"] if b.get("type") == "tool_use"]
        if calls:
            self.add("user", [tool_result(call, UNANSWERED, is_error=True) for call in calls])

    async def save(self) -> None:
        """Keep what is new, where there is a place for it; not cut by cancellation.

        Raises:
            AgentError: It cannot be kept; code `store`.
        """
        if self._keep is None or not self._unsaved or self._closed:
            self._unsaved.clear()
            return
        records, self._unsaved = self._unsaved, []
        await self._keep.append(self._session_id, records)

    def close(self) -> None:
        """Nothing is written from now on: somebody else may take the conversation up."""
        self._closed = True


def tool_result(call_id: str, content: object, *, is_error: bool) -> Block:
    """The block that answers a call."""
    block: Block = {"type": "tool_result", "tool_use_id": call_id, "content": content}
    return {**block, "is_error": True} if is_error else block


class Folder:
    """Conversations in files of a directory, readable by its owner alone.

    A file is named by the id, holds a record in each line, and only grows.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, session_id: str) -> Path:
        return self._directory / f"{session_id}.jsonl"

    async def load(self, session_id: str) -> list[Block] | None:
        """See `Keep.load`.

        Raises:
            AgentError: The file cannot be read; code `store`.
        """
        path = self._path(session_id)
        try:
            data = await anyio.to_thread.run_sync(path.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AgentError(f"{path} cannot be read: {error.strerror}", code="store") from error
        records: list[Block] = []
        for number, line in enumerate(data.split(b"\n"), 1):
            record = _parsed(line)
            if record is not None:
                records.append(record)
            elif line:
                log.warning("%s: line %d was cut off, and is left out", path, number)
        return records

    async def append(self, session_id: str, records: Sequence[Block]) -> None:
        """See `Keep.append`.

        Raises:
            AgentError: The file cannot be written; code `store`.
        """
        await run_to_end(_append(self._path(session_id), records), deadline_s=_WRITE_S)


async def _append(path: Path, records: Sequence[Block]) -> None:
    data = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)

    def write() -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(file, "r+b") as stream:
            if size := stream.seek(0, os.SEEK_END):
                stream.seek(size - 1)
                if stream.read(1) != b"\n":  # a crash has cut the last line
                    stream.write(b"\n")
            stream.write(data.encode("utf-8", "surrogatepass"))

    try:
        await anyio.to_thread.run_sync(write)
    except OSError as error:
        raise AgentError(
            f"The conversation cannot be kept in {path}: {error.strerror}", code="store"
        ) from error


class Shelf:
    """Where the conversations of an agent are: on a `Keep`, or in its memory.

    Args:
        keep: Its `Keep`, or the directory of a `Folder`. None keeps them for as long as the
            agent's object lives.
    """

    def __init__(self, keep: Keep | Path | None) -> None:
        self._keep = Folder(keep) if isinstance(keep, Path) else keep
        self._kept: dict[str, History] = {}

    @property
    def lasts(self) -> bool:
        """Whether what is kept outlives the agent's object."""
        return self._keep is not None

    async def take(self, session_id: str, *, resume: bool) -> History:
        """The conversation of an id: to be taken up, or begun.

        Raises:
            AgentError: There is none (code `no_conversation`), there is one already
                (`conversation_exists`), or what is kept cannot be read (`store`).
        """
        messages = await self._find(session_id)
        if resume and messages is None:
            raise AgentError(
                f"No conversation found with the id {session_id}. The messages agent keeps them "
                "in its own memory, or in the directory that it was given: Messages(store=...).",
                code="no_conversation",
            )
        if not resume and messages is not None:
            raise AgentError(
                f"There is a conversation {session_id} already; take it up with resume=.",
                code="conversation_exists",
            )
        history = History(messages or (), self._keep, session_id)
        if self._keep is None:
            self._kept[session_id] = history
        history.answer_open_calls()
        return history

    async def _find(self, session_id: str) -> list[Block] | None:
        if self._keep is not None:
            records = await self._keep.load(session_id)
            return None if records is None else _replayed(records, session_id)
        kept = self._kept.get(session_id)
        return kept.messages if kept is not None and kept.messages else None


def _replayed(records: Sequence[Block], session_id: str) -> list[Block]:
    """The messages that records add up to."""
    messages: list[Block] = []
    for number, record in enumerate(records, 1):
        if isinstance(record.get("cut"), int):
            del messages[record["cut"] :]
        elif record.get("role") in {"user", "assistant"} and record.get("content"):
            messages.append(record)
        else:
            raise AgentError(f"{session_id}: line {number} is not of a conversation.", code="store")
    return messages


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None where it is empty, or was cut off by a crash."""
    try:
        found = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
