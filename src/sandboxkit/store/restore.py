"""A workspace out of the store into a sandbox, each piece verified on its way."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import struct
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import SandboxError, SizeLimitError, StoreError
from sandboxkit.store.blobs import PIECE, Blobs
from sandboxkit.store.capture import sizes_of
from sandboxkit.store.manifest import Entry, Tree, dump, parse

if TYPE_CHECKING:
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.store.workspace import Workspace

RESTORE_S: Final = 900.0
"""Seconds for one workspace."""

_LENGTH: Final = struct.Struct(">I")
_END: Final = _LENGTH.pack(0)
_BLOCK: Final = 256 * 1024
_AHEAD: Final = 8  # pieces that are fetched before they are wanted
_MOST_LISTED: Final = 1024  # pieces of a manifest: 4 GiB of it


async def keep_manifest(blobs: Blobs, tree: Tree) -> tuple[str, ...]:
    """Keep the list of files as well; the digests of its pieces."""
    data = await anyio.to_thread.run_sync(dump, tree)
    return tuple([await blobs.put(data[at : at + PIECE]) for at in range(0, len(data), PIECE)])


async def load_manifest(
    blobs: Blobs, digests: Sequence[str], rules: Workspace | None = None
) -> Tree:
    """The list of files.

    Raises:
        StoreError: It is missing, or damaged.
        UnsafePathError: It names what leads outside.
        SizeLimitError: It is more than the limits.
    """
    if len(digests) > _MOST_LISTED:
        raise SizeLimitError("The list of the stored files is larger than any can be.", op="store")
    data = b"".join([await blobs.get(digest) for digest in digests])
    tree = await anyio.to_thread.run_sync(lambda: parse(data.splitlines()))
    if rules is None:
        return tree
    if tree.bytes > rules.max_bytes or len(tree.entries) > rules.max_entries:
        raise SizeLimitError(
            f"The stored workspace has {tree.bytes} bytes in {len(tree.entries)} files and "
            f"directories; allowed are {rules.max_bytes} in {rules.max_entries}.",
            op="store",
        )
    return tree


async def restore(
    sandbox: Sandbox, blobs: Blobs, tree: Tree, rules: Workspace, *, top: str | None = None
) -> None:
    """Make a directory of the sandbox what the tree says; what is excluded stays as it is.

    Raises:
        StoreError: A piece is missing or damaged, or it took longer than `RESTORE_S`.
        SandboxError: The sandbox refused it, or was lost.
    """
    top = top or sandbox.workdir
    try:
        with anyio.fail_after(RESTORE_S):
            for found in await sandbox.files.list(top):
                if not any(fnmatch.fnmatchcase(found.name, each) for each in rules.left_out):
                    await sandbox.files.remove(f"{top}/{found.name}", recursive=True)
            await sandbox.files.unpack(top, _gathered(_stream(blobs, tree)))
    except TimeoutError as error:
        if isinstance(error, SandboxError):
            raise
        raise StoreError(
            f"The workspace could not be restored within {RESTORE_S:g} s.", retryable=True
        ) from error


async def _gathered(parts: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes in blocks, since each is a message."""
    block = bytearray()
    try:
        async for part in parts:
            block += part
            if len(block) >= _BLOCK:
                yield bytes(block)
                block.clear()
        yield bytes(block)
    finally:
        await parts.aclose()


async def _stream(blobs: Blobs, tree: Tree) -> AsyncGenerator[bytes]:
    pieces = _fetched(blobs, tree)
    try:
        for entry in tree.entries.values():
            yield _header(entry)
            if entry.kind == "file":
                for size in sizes_of(entry):
                    content = await anext(pieces)
                    if len(content) != size:
                        raise StoreError(
                            f"{entry.name!r} was stored with {size} bytes where it has "
                            f"{len(content)}.",
                            code="damaged",
                        )
                    for at in range(0, size, _BLOCK):
                        block = content[at : at + _BLOCK]
                        yield _LENGTH.pack(len(block)) + block
                yield _END
        yield _END
    finally:
        await pieces.aclose()


def _header(entry: Entry) -> bytes:
    values: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.kind,
        "mode": entry.mode,
        "mtime": entry.mtime_ns / 1e9,
        "target": entry.target,
    }
    data = json.dumps(values).encode()
    return _LENGTH.pack(len(data)) + data


async def _fetched(blobs: Blobs, tree: Tree) -> AsyncGenerator[bytes]:
    """All pieces in order, some of them fetched ahead."""
    wanted: Iterator[str] = (piece for entry in tree.entries.values() for piece in entry.pieces)
    under_way: deque[asyncio.Task[bytes]] = deque()
    try:
        while True:
            while len(under_way) < _AHEAD and (digest := next(wanted, None)) is not None:
                under_way.append(asyncio.ensure_future(blobs.get(digest)))
            if not under_way:
                return
            content = await asyncio.shield(under_way[0])
            under_way.popleft()
            yield content
    finally:
        await cancel_and_wait(*under_way)
