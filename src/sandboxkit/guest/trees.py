"""A file tree as a stream of bytes, and back; the same code on both sides.

Not tar: a tar reader must cope with decades of tricks (links out of the tree, device
nodes, headers that claim gigabytes). Here are three kinds of entry and two limits.

    entry = u32 length, JSON {name, kind, mode, mtime, target}, for a file then its content
    content = (u32 length, bytes)*, u32 0
    stream = entry*, u32 0
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Optional

_LENGTH = struct.Struct(">I")
_BLOCK = 256 * 1024
_MAX_HEADER = 64 * 1024
_LAST_S = 1 << 40  # a time of modification is nearer to the epoch than so many seconds
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


class Entry(NamedTuple):
    name: str  # relative to the top, with slashes
    kind: str
    mode: int
    mtime: float
    target: str


class TreeError(Exception):
    """The tree holds, or the stream says, what is not allowed."""


class TooLarge(TreeError):
    """More bytes or entries than the limit."""


def pack(top: str, out: BinaryIO) -> List[str]:
    """Write the content of the directory `top`.

    Returns:
        The names left out, because they are neither file, directory nor symlink.
    """
    skipped: List[str] = []
    for name in _walk(top):
        path = os.path.join(top, name)
        try:
            status = os.lstat(path)
            kind = _KINDS.get(stat.S_IFMT(status.st_mode))
            if kind is None:
                skipped.append(name)
                continue
            header: Dict[str, Any] = {
                "name": name,
                "kind": kind,
                "mode": stat.S_IMODE(status.st_mode) & 0o777,
                "mtime": status.st_mtime,
            }
            if kind == "symlink":
                header["target"] = os.readlink(path)
            source = _open_file(path) if kind == "file" else None
        except FileNotFoundError:
            continue  # removed while we walked
        except _Swapped:
            skipped.append(name)
            continue
        _write_header(out, header)
        if source is not None:
            _write_content(out, source)
    out.write(_LENGTH.pack(0))
    out.flush()
    return skipped


class _Swapped(Exception):
    """It was a file a moment ago."""


def _open_file(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _Swapped from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _Swapped
    return fd


def _walk(top: str) -> Iterator[str]:
    pending = [""]
    while pending:
        here = pending.pop()
        with os.scandir(os.path.join(top, here)) as entries:
            for entry in entries:
                name = os.path.join(here, entry.name)
                yield name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)


def _write_header(out: BinaryIO, header: Dict[str, Any]) -> None:
    data = json.dumps(header).encode()
    out.write(_LENGTH.pack(len(data)) + data)


def _write_content(out: BinaryIO, source: int) -> None:
    try:
        while True:
            block = os.read(source, _BLOCK)
            out.write(_LENGTH.pack(len(block)))
            if not block:
                return
            out.write(block)
    finally:
        os.close(source)


def unpack(
    source: BinaryIO,
    top: str,
    confined: bool,
    max_bytes: Optional[int] = None,
    max_entries: Optional[int] = None,
) -> int:
    """Write the tree below `top`, which is made if it is missing.

    No entry is ever written through a symlink below `top`.

    Args:
        source: The stream.
        top: The directory.
        confined: Whether a symlink that leads out of `top` is refused.
        max_bytes: Bytes of file content, at most.
        max_entries: Entries, at most.

    Returns:
        How many entries there were.
    """
    os.makedirs(top, exist_ok=True)
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    writer = _Writer(root, max_bytes)
    count = 0
    try:
        while True:
            entry = _read_entry(source)
            if entry is None:
                return count
            count += 1
            if max_entries is not None and count > max_entries:
                raise TooLarge("more than %d files and directories" % max_entries)
            writer.entry(entry, source, confined)
    finally:
        writer.close()


class _Writer:
    """Writes entries below a directory; keeps the last entry's directory open."""

    def __init__(self, root: int, max_bytes: Optional[int]) -> None:
        self._root = root
        self._parent_name: Optional[str] = None
        self._parent = -1
        self._left = max_bytes
        self._limit = max_bytes

    def entry(self, entry: Entry, source: BinaryIO, confined: bool) -> None:
        parts = entry.name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in entry.name:
            raise TreeError("the name %r leads outside, or is none" % entry.name)
        parent, leaf = self._open_parent(parts[:-1]), parts[-1]
        if entry.kind == "directory":
            self._directory(parent, leaf, entry.mode)
        elif entry.kind == "symlink":
            if confined:
                _check_target(entry)
            self._clear(parent, leaf, entry.name)
            os.symlink(entry.target, leaf, dir_fd=parent)
        elif entry.kind == "file":
            self._clear(parent, leaf, entry.name)
            self._file(parent, leaf, entry.mode, source)
            times = (entry.mtime, entry.mtime)
            os.utime(leaf, times, dir_fd=parent, follow_symlinks=False)
        else:
            raise TreeError("%r is neither file, directory nor symlink" % entry.name)

    def _open_parent(self, parts: List[str]) -> int:
        name = "/".join(parts)
        if name == self._parent_name:
            return self._parent
        fd = os.dup(self._root)
        for part in parts:
            try:
                below = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
                )
            except OSError as error:
                raise TreeError("%r is not a directory to write into" % name) from error
            finally:
                os.close(fd)
            fd = below
        if self._parent != -1:
            os.close(self._parent)
        self._parent_name, self._parent = name, fd
        return fd

    def _directory(self, parent: int, leaf: str, mode: int) -> None:
        try:
            os.mkdir(leaf, mode | 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), leaf) from None

    def _clear(self, parent: int, leaf: str, name: str) -> None:
        try:
            os.unlink(leaf, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            if stat.S_ISDIR(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode):
                number = errno.EISDIR
                raise IsADirectoryError(number, os.strerror(number), name) from error
            raise

    def _file(self, parent: int, leaf: str, mode: int, source: BinaryIO) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=parent)
        try:
            while True:
                (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
                if length == 0:
                    break
                if length > _BLOCK:
                    raise TreeError("a block of %d bytes is larger than allowed" % length)
                if self._left is not None:
                    self._left -= length
                    if self._left < 0:
                        raise TooLarge("more than %s bytes" % self._limit)
                block = memoryview(_exactly(source, length))
                while block:
                    block = block[os.write(fd, block) :]
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def close(self) -> None:
        for fd in (self._root, self._parent):
            if fd != -1:
                os.close(fd)


def _check_target(entry: Entry) -> None:
    """A target may climb only first of all, and no higher than the top.

    After another name, `..` would climb from wherever that one, as a symlink, leads to.
    """
    parts = [part for part in entry.target.split("/") if part not in ("", ".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == "..":
        climbs += 1
    outside = entry.target.startswith("/") or climbs > entry.name.count("/")
    if outside or ".." in parts[climbs:]:
        raise TreeError("the symlink %r leads outside, to %r" % (entry.name, entry.target))


def _read_entry(source: BinaryIO) -> Optional[Entry]:
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    if length == 0:
        return None
    if length > _MAX_HEADER:
        raise TreeError("an entry of %d bytes is larger than allowed" % length)
    try:
        header = json.loads(_exactly(source, length))
        mode, mtime = int(header.get("mode", 0o644)), float(header.get("mtime", 0))
        name, target = header["name"], header.get("target", "")
        if not (isinstance(name, str) and isinstance(target, str) and abs(mtime) < _LAST_S):
            raise TypeError
        name.encode("utf-8", "surrogateescape")
        target.encode("utf-8", "surrogateescape")
        return Entry(name, str(header["kind"]), mode & 0o777, mtime, target)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        raise TreeError("what should describe an entry does not") from None


def _exactly(source: BinaryIO, count: int) -> bytes:
    data = source.read(count)
    if len(data) != count:
        raise TreeError("the stream ends in the middle")
    return data
