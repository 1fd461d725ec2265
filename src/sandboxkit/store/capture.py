"""A workspace out of a sandbox into the store; only what has changed is read."""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

import anyio
import anyio.to_thread

from sandboxkit.channel.requests import PIPE
from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import (
    ExecStartError,
    ProtocolError,
    SandboxError,
    SizeLimitError,
    StoreError,
    UnsafePathError,
    UnsupportedError,
)
from sandboxkit.store.blobs import PIECE, Blobs, digest_of
from sandboxkit.store.manifest import Entry, Tree, entry_of

if TYPE_CHECKING:
    from sandboxkit.channel.process import OutputStream, Process
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.store.workspace import Workspace

CAPTURE_S: Final = 900.0
"""Seconds for one save of a workspace."""

_LENGTH: Final = struct.Struct(">I")
_MOST_SAID: Final = 64 * 1024  # bytes of a description
_AT_ONCE: Final = 8  # pieces on their way to the store
_UNREAD: Final = 100  # names that are told
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class Captured:
    """What a save has found.

    Attributes:
        tree: The workspace.
        seen: What the sandbox said of each file that need not be read again.
        unread: Names of what its user could not read.
        read_bytes: Bytes that came out of the sandbox.
    """

    tree: Tree = field(default_factory=Tree)
    seen: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    unread: tuple[str, ...] = ()
    read_bytes: int = 0


async def capture(
    sandbox: Sandbox, blobs: Blobs, before: Captured, rules: Workspace, *, top: str | None = None
) -> Captured:
    """Bring what has changed since `before` into the store.

    Args:
        sandbox: Where.
        blobs: The store.
        before: The last capture of this session. What the sandbox says it has not changed
            is taken from there, and from nowhere else.
        rules: What is left out, and the limits.
        top: The directory; None is the work directory.

    Raises:
        SizeLimitError: It is more than the limits.
        StoreError: The store failed.
        UnsupportedError: There is no Python in the sandbox's path.
        SandboxError: The sandbox was lost, or what it says is malformed.
    """
    request = {
        "top": top or sandbox.workdir,
        "excludes": rules.left_out,
        "piece": PIECE,
        "known": before.seen,
        "have": sorted(before.tree.digests()),
    }
    said = await anyio.to_thread.run_sync(lambda: json.dumps(request).encode())
    program = await anyio.to_thread.run_sync(_program)
    argv = ["python3", "-I", "-c", program]
    try:
        with anyio.fail_after(CAPTURE_S):
            async with await sandbox.spawn(argv, cwd="/", stdin=PIPE) as process:
                return await _follow(process, said, _Reader(process.stdout, blobs, before, rules))
    except ExecStartError as error:
        if error.code != "not_found":
            raise
        raise UnsupportedError(
            "the workspace cannot be saved: there is no python3 in the sandbox's path", op="store"
        ) from error
    except TimeoutError as error:
        if isinstance(error, SandboxError):
            raise
        raise StoreError(
            f"The workspace could not be read within {CAPTURE_S:g} s; leave out what need not be "
            "kept: Workspace(excludes=[...])."
        ) from error


async def _follow(process: Process, said: bytes, reader: _Reader) -> Captured:
    async def ask() -> None:
        await process.stdin.write(said)
        await process.stdin.close()

    asking = asyncio.ensure_future(ask())
    try:
        return await reader.all()
    except _Cut as error:
        told = (await process.stderr.read())[-500:].decode("utf-8", "replace").strip()
        raise ProtocolError(
            f"The program that reads the workspace ended in the middle: {told}", op="store"
        ) from error
    finally:
        await cancel_and_wait(asking)


@cache
def _program() -> str:
    return Path(__file__).with_name("inside.py").read_text("utf-8")


class _Cut(Exception):
    """The stream has ended where more must come."""


class _Reader:
    """Reads what the program says, and believes none of it."""

    def __init__(
        self, source: OutputStream, blobs: Blobs, before: Captured, rules: Workspace
    ) -> None:
        self._source = source
        self._buffer = bytearray()
        self._before, self._rules = before, rules
        self._have = {
            digest: size
            for entry in before.tree.entries.values()
            for digest, size in zip(entry.pieces, sizes_of(entry), strict=True)
        }
        self._puts = _Puts(blobs)
        self._tree = Tree()
        self._seen: dict[str, list[int]] = {}
        self._unread: list[str] = []
        self._left_unread = 0
        self._read = 0

    async def all(self) -> Captured:
        try:
            while (said := await self._description()) is not None:
                await self._entry(said)
            await self._puts.finish()
        finally:
            await self._puts.stop()
        return Captured(self._tree, self._seen, tuple(self._unread), self._read)

    async def _description(self) -> dict[str, Any] | None:
        frame = await self._frame(_MOST_SAID)
        try:
            said = json.loads(frame)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise ProtocolError("The program that reads the workspace said nonsense.", op="store")
        values = cast("dict[str, Any]", said)
        return None if values.get("end") else values

    async def _entry(self, said: dict[str, Any]) -> None:
        kind, name = said.get("kind"), str(said.get("name"))
        if kind == "unread":
            self._count(1)
            if len(self._unread) < _UNREAD:
                self._unread.append(name[:_LONGEST])
            return
        if kind == "same":
            self._keep(name, said)
        elif kind == "file":
            pieces, size = await self._content()
            self._add(entry_of({**said, "size": size, "pieces": pieces}))
            if _is_status(seen := said.get("seen")):
                self._seen[name] = seen
        else:
            self._add(entry_of(said))

    def _keep(self, name: str, said: dict[str, Any]) -> None:
        """A file that has not changed, which is taken from the last capture."""
        before, seen = self._before.tree.entries.get(name), self._before.seen.get(name)
        if before is None or seen is None or before.kind != "file":
            raise UnsafePathError(f"{name[:200]!r} is said to be as before, and was not there")
        self._add(replace(before, mode=entry_of({**said, "kind": "file"}).mode))
        self._seen[name] = seen

    def _add(self, entry: Entry) -> None:
        self._count(0)
        self._tree.add(entry)
        self._check(self._tree.bytes)

    def _count(self, unread: int) -> None:
        self._left_unread += unread
        if len(self._tree.entries) + self._left_unread >= self._rules.max_entries:
            raise SizeLimitError(
                f"The workspace has more than {self._rules.max_entries} files and directories; "
                "leave some out: Workspace(excludes=[...]), or raise max_entries.",
                op="store",
            )

    def _check(self, size: int) -> None:
        if size > self._rules.max_bytes:
            raise SizeLimitError(
                f"The workspace has more than {self._rules.max_bytes} bytes; leave some out: "
                "Workspace(excludes=[...]), or raise max_bytes.",
                op="store",
            )

    async def _content(self) -> tuple[list[str], int]:
        """The pieces of a file, and its size."""
        pieces: list[str] = []
        size = 0
        while frame := await self._frame(PIECE + 1):
            if size % PIECE or len(frame) == 1:
                raise ProtocolError("A piece in the middle of a file is not whole.", op="store")
            if frame[:1] == b"h":
                digest = frame[1:].decode("ascii", "replace")
                if digest not in self._have:  # of others', it would be given to it
                    raise UnsafePathError("a piece is said to be known, and is not", op="store")
                size += self._have[digest]
            else:
                content = bytes(frame[1:])
                self._read += len(content)
                size += len(content)
                digest = await self._puts.put(content)
            pieces.append(digest)
            self._check(self._tree.bytes + size)
        return pieces, size

    async def _frame(self, most: int) -> bytes:
        (length,) = _LENGTH.unpack(await self._exactly(_LENGTH.size))
        if length > most:
            raise ProtocolError(f"A frame of {length} bytes is larger than allowed.", op="store")
        return await self._exactly(length)

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                self._buffer += await self._source.receive()
            except anyio.EndOfStream:
                raise _Cut from None
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data


class _Puts:
    """Pieces on their way to the store, so many at once."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._tasks: set[asyncio.Task[str]] = set()

    async def put(self, content: bytes) -> str:
        """Begin to keep a piece; its digest. Raises what an earlier one has failed with."""
        if len(self._tasks) >= _AT_ONCE:
            await self._some(asyncio.FIRST_COMPLETED)
        digest = await digest_of(content)
        self._tasks.add(asyncio.ensure_future(self._blobs.put(content, digest)))
        return digest

    async def finish(self) -> None:
        """Wait for all."""
        while self._tasks:
            await self._some(asyncio.ALL_COMPLETED)

    async def _some(self, until: str) -> None:
        done, self._tasks = await asyncio.wait(self._tasks, return_when=until)
        for task in done:
            task.result()

    async def stop(self) -> None:
        await cancel_and_wait(*self._tasks)


def _is_status(said: object) -> TypeGuard[list[int]]:
    """Whether it can be size, times and number of a file."""
    if not isinstance(said, list):
        return False
    numbers = cast("list[object]", said)
    return len(numbers) == 4 and all(isinstance(n, int) and abs(n) < 1 << 64 for n in numbers)


def sizes_of(entry: Entry) -> list[int]:
    """The sizes of an entry's pieces: all but the last are whole."""
    whole = len(entry.pieces) - 1
    return [*[PIECE] * whole, entry.size - whole * PIECE] if entry.pieces else []
