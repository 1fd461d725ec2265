"""A file of what has been done, so that a second run does not do it again.

A line of JSON for the task, then one for each input that has a value, in the order in which
they ended. Each is on the disk before its outcome is given to the caller. What a crash left of
a last line is dropped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeVar, TypeVarTuple, cast

import anyio.to_thread
from pydantic import BaseModel

from sandboxkit.agents.base import RunResult
from sandboxkit.agents.latency import Latency
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import InvalidSpecError
from sandboxkit.usage import Usage

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_VERSION: Final = 1
_DISK_S: Final = 60.0
_RUN: Final = (
    *("text", "turns", "stop_reason", "is_error", "errors", "cost_usd", "session_id"),
    *("notes", "structured_output"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What the journal has of one input."""

    value: object
    attempts: int


class Journal:
    """The file, for an `async with` block. One run at a time may have it.

    In memory there are the index and the place in the file of each line, no values.

    Args:
        path: Where it is; made if it is missing.
        task: What tells this task from another; None is not checked.
    """

    def __init__(self, path: str | Path, task: str | None) -> None:
        self._path = Path(path)
        self._task = None if task is None else _digest(task.encode())
        self._lines: dict[int, int] = {}
        self._turn = asyncio.Lock()  # a thread at a time
        self._file: BinaryIO | None = None

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            InvalidSpecError: It is no journal, or another task's, or another run has it.
            OSError: It cannot be read or written.
        """
        await run_to_end(_threaded(self._open), deadline_s=_DISK_S)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    async def find(self, index: int, value: object) -> Entry | None:
        """What an earlier run has of this input; None if it was another input, or nothing.

        Raises:
            InvalidSpecError: See `digest_of`.
            OSError: It could not be read.
        """
        digest = digest_of(value)  # now, and not when there is a result that cannot be kept
        if index not in self._lines:
            return None
        async with self._turn:
            return await run_to_end(_threaded(self._read, index, digest), deadline_s=_DISK_S)

    async def keep(self, index: int, value: object, result: object, attempts: int) -> None:
        """Write down a result; it is on the disk when this returns, or has been cancelled.

        Raises:
            InvalidSpecError: JSON would not give the result back as it is.
            OSError: It could not be written.
        """
        line = {"index": index, "input": digest_of(value), "attempts": attempts}
        data = json.dumps(line | _plain(result), allow_nan=False).encode() + b"\n"
        async with self._turn:
            await run_to_end(_threaded(self._append, index, data), deadline_s=_DISK_S)

    # in a thread

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = os.fdopen(descriptor, "r+b")
        try:
            self._lock(file)
            self._load(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _lock(self, file: BinaryIO) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidSpecError(f"{self._path} is the journal of a run under way") from None

    def _load(self, file: BinaryIO) -> None:
        head = {"sandboxkit": "map", "version": _VERSION, "task": self._task}
        first = json.dumps(head).encode() + b"\n"
        place = 0
        for line in file:
            if not line.endswith(b"\n"):
                if place == 0 and not first.startswith(line):
                    raise self._foreign()
                break
            self._load_line(line, place)
            place += len(line)
        file.truncate(place)  # what a crash has left of a last line
        if place == 0:
            file.seek(0)
            _write(file, first)

    def _load_line(self, line: bytes, place: int) -> None:
        if place == 0:
            self._check_head(line)
            return
        index = self._parsed(line).get("index")
        if not isinstance(index, int):
            raise self._foreign()
        self._lines[index] = place

    def _check_head(self, line: bytes) -> None:
        head = self._parsed(line)
        if head.get("sandboxkit") != "map" or head.get("version") != _VERSION:
            raise self._foreign()
        if head.get("task") != self._task:
            raise InvalidSpecError(
                f"{self._path} is the journal of another task, whose results would be wrong "
                "here: give another file, or remove this one"
            )

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(line)
        except ValueError:
            raise self._foreign() from None
        if not isinstance(parsed, dict):
            raise self._foreign()
        return cast("dict[str, Any]", parsed)

    def _foreign(self) -> InvalidSpecError:
        return InvalidSpecError(
            f"{self._path} is not a journal of sandboxkit.map; it was not touched"
        )

    def _read(self, index: int, digest: str) -> Entry | None:
        file = self._opened()
        file.seek(self._lines[index])
        line = self._parsed(file.readline())
        if line.get("input") != digest:
            return None
        return Entry(_made(line), int(line["attempts"]))

    def _append(self, index: int, data: bytes) -> None:
        file = self._opened()
        self._lines[index] = file.seek(0, os.SEEK_END)
        _write(file, data)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise InvalidSpecError("the journal has been closed")
        return self._file


async def _threaded(function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    return await anyio.to_thread.run_sync(function, *arguments)


def digest_of(value: object) -> str:
    """What tells an input from others.

    Raises:
        InvalidSpecError: It is of a type for which there is no such thing.
    """
    if isinstance(value, bytes):
        return _digest(b"bytes:" + value)
    try:
        return _digest(json.dumps(value, sort_keys=True, default=_fields).encode())
    except (TypeError, ValueError) as error:
        raise InvalidSpecError(
            f"the journal cannot tell this input from others: {error}. It knows strings, bytes, "
            "numbers, paths, lists, mappings, dataclasses and pydantic models"
        ) from None


def _fields(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes):
        return _digest(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _plain(result: object) -> dict[str, Any]:
    if isinstance(result, RunResult):
        run = {name: getattr(result, name) for name in _RUN}
        run["usage"] = dataclasses.asdict(result.usage)
        run["latency"] = dataclasses.asdict(result.latency)
        return {"run": run}
    try:
        same = json.loads(json.dumps(result, allow_nan=False)) == result
    except (TypeError, ValueError):
        same = False
    if not same:
        raise InvalidSpecError(
            f"a {type(result).__name__} of the task cannot be kept in the journal: with one, a "
            "task must return what JSON gives back as it was (dict, list, str, numbers, bool, None)"
        )
    return {"value": result}


def _made(line: Mapping[str, Any]) -> object:
    if "run" not in line:
        return line["value"]
    run: dict[str, Any] = dict(line["run"])
    run |= {"errors": tuple(run["errors"]), "notes": tuple(run["notes"]), "messages": ()}
    run |= {"usage": Usage(**run["usage"]), "latency": Latency(**run["latency"])}
    return RunResult(**run)
