"""File trees as the protocol streams them, between memory and bytes.

entry = u32 length, JSON {name, kind, mode, mtime, target}, for a file then its content
content = (u32 length, bytes)*, u32 0
stream = entry*, u32 0
"""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Iterator
from typing import Any

from sandboxkit.testing.memory.files import Directory, File, Node, Symlink, failed

_LENGTH = struct.Struct(">I")
_BLOCK = 256 * 1024
_END = _LENGTH.pack(0)


class BadTreeError(Exception):
    """The stream is not a tree, or leads outside."""


def pack(top: Directory) -> Iterator[bytes]:
    """The stream of what is below a directory."""
    for name, node in _walk(top, ""):
        header: dict[str, Any] = {"name": name, "mode": node.mode & 0o777, "mtime": node.mtime}
        if isinstance(node, Symlink):
            header |= {"kind": "symlink", "target": node.target}
        else:
            header["kind"] = "file" if isinstance(node, File) else "directory"
        yield _sized(json.dumps(header).encode())
        if isinstance(node, File):
            for at in range(0, len(node.data), _BLOCK):
                yield _sized(node.data[at : at + _BLOCK])
            yield _END
    yield _END


def _walk(directory: Directory, above: str) -> Iterator[tuple[str, Node]]:
    for name, node in directory.entries.items():
        yield above + name, node
        if isinstance(node, Directory):
            yield from _walk(node, f"{above}{name}/")


def _sized(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def unpack(stream: bytes, top: Directory) -> int:
    """Put the stream's entries below a directory; how many there were.

    Raises:
        BadTreeError: The stream breaks the format, or a name leads outside.
        OSError: A directory stands where a file should, or the other way round.
    """
    blocks = _blocks(stream)
    count = 0
    while head := next(blocks):
        header: dict[str, Any] = json.loads(head)
        _put(header, blocks, top)
        count += 1
    return count


def _put(header: dict[str, Any], blocks: Iterator[bytes], top: Directory) -> None:
    name, kind = str(header["name"]), header["kind"]
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise BadTreeError(f"the name {name!r} leads outside, or is none")
    here = top
    for part in parts[:-1]:
        below = here.entries.get(part)
        if not isinstance(below, Directory):  # a symlink is not followed
            raise BadTreeError(f"{name!r} has no directory to be written into")
        here = below
    old, mode, mtime = here.entries.get(parts[-1]), int(header["mode"]), float(header["mtime"])
    if kind == "directory":
        if old is None:
            here.entries[parts[-1]] = Directory(mode=mode | 0o700)
        elif not isinstance(old, Directory):
            raise failed(errno.ENOTDIR, name)
        return
    if isinstance(old, Directory):
        raise failed(errno.EISDIR, name)
    if kind == "symlink":
        here.entries[parts[-1]] = Symlink(str(header["target"]))
    else:
        here.entries[parts[-1]] = File(b"".join(iter(lambda: next(blocks), b"")), mode, mtime)


def _blocks(stream: bytes) -> Iterator[bytes]:
    at = 0
    while at + _LENGTH.size <= len(stream):
        (length,) = _LENGTH.unpack_from(stream, at)
        at += _LENGTH.size
        if at + length > len(stream):
            break
        yield stream[at : at + length]
        at += length
    raise BadTreeError("the stream ends in the middle")
