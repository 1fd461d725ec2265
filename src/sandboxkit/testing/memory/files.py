"""A file tree in memory, with the errors of a real one."""

from __future__ import annotations

import copy
import errno
import os
import posixpath
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MOST_LINKS = 40


@dataclass(slots=True)
class File:
    """A regular file."""

    data: bytes = b""
    mode: int = 0o644
    mtime: float = field(default_factory=time.time)


@dataclass(slots=True)
class Symlink:
    """A symbolic link."""

    target: str
    mode: int = 0o777
    mtime: float = field(default_factory=time.time)


@dataclass(slots=True)
class Directory:
    """A directory."""

    entries: dict[str, Node] = field(default_factory=dict[str, "Node"])
    mode: int = 0o755
    mtime: float = field(default_factory=time.time)


Node = File | Symlink | Directory


def failed(number: int, path: str) -> OSError:
    """The `OSError` that the kernel would give; it is of the subclass that fits."""
    return OSError(number, os.strerror(number), path)


class MemoryFiles:
    """The files of one sandbox, for handlers and tests. Every method may raise `OSError`.

    Args:
        root: The tree; None is an empty one.
        base: Where relative paths start.
    """

    def __init__(self, root: Directory | None = None, base: str = "/") -> None:
        self._root = root if root is not None else Directory()
        self._base = base

    def at(self, base: str) -> MemoryFiles:
        """The same files, with relative paths from `base`."""
        return MemoryFiles(self._root, base)

    def copied(self) -> MemoryFiles:
        """The same tree once more, by itself."""
        return MemoryFiles(copy.deepcopy(self._root))

    def fill(self, files: Mapping[str, bytes | str]) -> None:
        """Write several files."""
        for path, data in files.items():
            self.write(path, data)

    def read(self, path: str) -> bytes:
        """The content of a file."""
        node = self.node(path)
        if isinstance(node, File):
            return node.data
        raise failed(errno.EISDIR, path)

    def write(
        self,
        path: str,
        data: bytes | str,
        *,
        mode: int | None = None,
        append: bool = False,
        exclusive: bool = False,
        parents: bool = True,
    ) -> None:
        """Write a file; see `sandboxkit.channel.files.Files.write`."""
        if parents:
            self.make_dir(posixpath.dirname(posixpath.join(self._base, path)))
        parent, name, old = self._resolve(path)
        if isinstance(old, Directory):
            raise failed(errno.EISDIR, path)
        if old is not None and exclusive:
            raise failed(errno.EEXIST, path)
        content = data.encode() if isinstance(data, str) else data
        kept = old.data if append and isinstance(old, File) else b""
        if mode is None:
            mode = old.mode if old is not None else 0o644
        parent.entries[name] = File(kept + content, mode)

    def exists(self, path: str) -> bool:
        """Whether anything stands there; a dangling symlink does not count."""
        try:
            self.node(path)
        except OSError:
            return False
        return True

    def list(self, path: str = ".") -> list[str]:
        """The names in a directory, sorted."""
        return sorted(self.directory(path).entries)

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link at `path`."""
        parent, name, old = self._resolve(path, follow=False)
        if old is not None:
            raise failed(errno.EEXIST, path)
        parent.entries[name] = Symlink(target)

    def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Make a directory."""
        full = posixpath.join(self._base, path)
        if parents and full != posixpath.dirname(full) and not self.exists(posixpath.dirname(full)):
            self.make_dir(posixpath.dirname(full))
        parent, name, old = self._resolve(full)
        if old is None:
            parent.entries[name] = Directory()
        elif not exist_ok or not isinstance(old, Directory):
            raise failed(errno.EEXIST, path)

    def remove(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """Remove a file, a symlink or a directory."""
        try:
            parent, name, old = self._resolve(path, follow=False)
            if old is None:
                raise failed(errno.ENOENT, path)
        except FileNotFoundError:
            if missing_ok:
                return
            raise
        if not name:
            raise failed(errno.EBUSY, path)
        if isinstance(old, Directory) and old.entries and not recursive:
            raise failed(errno.ENOTEMPTY, path)
        del parent.entries[name]

    def move(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """Rename or move."""
        from_parent, from_name, node = self._resolve(source, follow=False)
        if node is None:
            raise failed(errno.ENOENT, source)
        to_parent, to_name, old = self._resolve(target, follow=False)
        if old is not None and not overwrite:
            raise failed(errno.EEXIST, target)
        if (
            not from_name
            or not to_name
            or (isinstance(node, Directory) and _holds(node, to_parent))
        ):
            raise failed(errno.EINVAL, source)
        if isinstance(old, Directory) and not isinstance(node, Directory):
            raise failed(errno.EISDIR, target)
        if isinstance(node, Directory) and old is not None:
            if not isinstance(old, Directory):
                raise failed(errno.ENOTDIR, target)
            if old.entries:
                raise failed(errno.ENOTEMPTY, target)
        del from_parent.entries[from_name]
        to_parent.entries[to_name] = node

    def node(self, path: str, *, follow: bool = True) -> Node:
        """What stands at `path`."""
        _parent, _name, node = self._resolve(path, follow=follow)
        if node is None:
            raise failed(errno.ENOENT, path)
        return node

    def directory(self, path: str) -> Directory:
        """The directory at `path`."""
        node = self.node(path)
        if isinstance(node, Directory):
            return node
        raise failed(errno.ENOTDIR, path)

    def _resolve(self, path: str, *, follow: bool = True) -> tuple[Directory, str, Node | None]:
        """The directory that holds the last part of `path`, that part, what stands there.

        The part is empty for a path that names a directory without a name of its own.
        """
        trail = [self._root]
        todo = _parts(posixpath.join("/", self._base, path))
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                trail = trail[:-1] or trail
                continue
            node = trail[-1].entries.get(part)
            if isinstance(node, Symlink) and (todo or follow):
                links += 1
                if links > _MOST_LINKS:
                    raise failed(errno.ELOOP, path)
                if node.target.startswith("/"):
                    trail = [self._root]
                todo += _parts(node.target)
            elif not todo:
                return trail[-1], part, node
            elif isinstance(node, Directory):
                trail.append(node)
            else:
                raise failed(errno.ENOENT if node is None else errno.ENOTDIR, path)
        return trail[-1], "", trail[-1]


def describe(node: Node, name: str) -> dict[str, Any]:
    """A node as the protocol describes it."""
    kinds = {File: "file", Directory: "directory", Symlink: "symlink"}
    size = 0
    if not isinstance(node, Directory):
        size = len(node.data if isinstance(node, File) else node.target)
    return {
        "name": name,
        "kind": kinds[type(node)],
        "size": size,
        "mode": node.mode,
        "mtime": node.mtime,
        "uid": 1000,
        "gid": 1000,
        "target": node.target if isinstance(node, Symlink) else None,
    }


def _parts(path: str) -> list[str]:
    """The parts of a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _holds(top: Directory, wanted: Directory) -> bool:
    return top is wanted or any(
        _holds(below, wanted) for below in top.entries.values() if isinstance(below, Directory)
    )
