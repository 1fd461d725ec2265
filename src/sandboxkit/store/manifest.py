"""The list of a tree's files: what is in it was said by a sandbox, and is checked each time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from sandboxkit.errors import UnsafePathError

Kind = Literal["file", "directory", "symlink"]

_KINDS: Final = ("file", "directory", "symlink")
_LONGEST: Final = 4096  # bytes of a path, as Linux has it
_LAST_NS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or symlink.

    Attributes:
        name: Relative to the top, with slashes; what is not UTF-8 by surrogateescape.
        kind: What it is.
        mode: Permission bits, without setuid and the like.
        mtime_ns: When a file was changed, by the sandbox's clock, in whole microseconds.
        size: Bytes of a file.
        pieces: The digests of its content, in order.
        target: Where a symlink leads to. Nothing follows it outside of a sandbox.
    """

    name: str
    kind: Kind
    mode: int
    mtime_ns: int
    size: int = 0
    pieces: tuple[str, ...] = ()
    target: str = ""


class Tree:
    """The entries of one directory, of which each has its place.

    Attributes:
        entries: By name, a directory before what is in it.
        bytes: What the files hold.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.bytes = 0

    def add(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
            UnsafePathError: It leads outside, is there already, or lies in no directory of this
                tree.
        """
        parts = entry.name.split("/")
        if any(part in {"", ".", ".."} for part in parts) or not _is_path(entry.name):
            raise UnsafePathError(f"the name {entry.name[:200]!r} leads outside, or is none")
        if entry.name in self.entries:
            raise UnsafePathError(f"{entry.name[:200]!r} is there twice")
        above = self.entries.get("/".join(parts[:-1])) if len(parts) > 1 else None
        if len(parts) > 1 and (above is None or above.kind != "directory"):
            raise UnsafePathError(f"{entry.name[:200]!r} lies in what is no directory")
        if entry.kind == "symlink" and not _is_path(entry.target):
            raise UnsafePathError(f"the symlink {entry.name[:200]!r} has a target that is none")
        self.entries[entry.name] = entry
        self.bytes += entry.size

    def digests(self) -> set[str]:
        """The pieces of all its files."""
        return {piece for entry in self.entries.values() for piece in entry.pieces}


def _is_path(path: str) -> bool:
    try:
        length = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return False
    return 0 < length <= _LONGEST and "\0" not in path


def entry_of(values: Mapping[str, Any]) -> Entry:
    """An entry out of JSON, whoever wrote it.

    Raises:
        UnsafePathError: It is none.
    """
    try:
        kind, mode, mtime = values["kind"], int(values["mode"]), int(values["mtime_ns"])
        name, target, pieces = values["name"], values.get("target", ""), values.get("pieces", ())
        fits = isinstance(name, str) and isinstance(target, str) and abs(mtime) < _LAST_NS
        if not fits or kind not in _KINDS or not all(isinstance(one, str) for one in pieces):
            raise TypeError
        size = int(values.get("size", 0))
    except (TypeError, ValueError, KeyError, ArithmeticError):
        raise UnsafePathError("what should describe a file does not") from None
    # Microseconds are what a restored file has again; of others the time is not kept.
    mtime = (mtime + 500) // 1000 * 1000 if kind == "file" else 0
    return Entry(name, kind, mode & 0o777, mtime, max(size, 0), tuple(pieces), target)


def dump(tree: Tree) -> bytes:
    """The tree as lines of JSON."""
    return b"".join(_line(entry) for entry in tree.entries.values())


def _line(entry: Entry) -> bytes:
    values: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.kind,
        "mode": entry.mode,
        "mtime_ns": entry.mtime_ns,
    }
    if entry.kind == "file":
        values |= {"size": entry.size, "pieces": entry.pieces}
    elif entry.kind == "symlink":
        values["target"] = entry.target
    return f"{json.dumps(values, separators=(',', ':'))}\n".encode()


def parse(lines: Iterable[bytes]) -> Tree:
    """The tree of what `dump` wrote.

    Raises:
        UnsafePathError: An entry leads outside, or is none.
    """
    tree = Tree()
    for line in lines:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        tree.add(entry_of(cast("dict[str, Any]", values) if isinstance(values, dict) else {}))
    return tree
