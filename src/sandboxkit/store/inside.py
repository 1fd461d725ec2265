"""Runs in the sandbox, by its Python: tells what a tree holds, and what has changed in it.

Nothing of sandboxkit is imported; Python 3.8. Standard input is one object of JSON:

    top       the directory
    excludes  patterns of what is left out
    piece     bytes of a piece
    known     name -> [size, mtime_ns, ctime_ns, inode] of files that need not be read again
    have      digests of pieces that the host has of this tree

Standard output is frames, each a u32 length and so many bytes: a description in JSON; after
that of a file its pieces, `h` and a digest or `d` and content, and an empty frame; at the
end `{"end": true}`. The host believes none of it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import stat
import struct
import sys
import time
from typing import Any, BinaryIO, Dict, Iterator, List

_LENGTH = struct.Struct(">I")
_FRESH_NS = 2_000_000_000  # a file so young may change again within one tick of its clock


def main(source: BinaryIO, out: BinaryIO) -> None:
    request = json.loads(source.read())
    report = _Report(request, out)
    for name in _walk(os.fsencode(request["top"]), request["excludes"]):
        report.entry(name)
    report.say({"end": True})
    out.flush()


def _walk(top: bytes, excludes: List[str]) -> Iterator[str]:
    """Names below `top`, a directory before what is in it."""
    pending = [""]
    while pending:
        here = pending.pop()
        try:
            with os.scandir(os.path.join(top, os.fsencode(here))) as found:
                below = sorted(found, key=lambda each: each.name)
        except OSError:
            if not here:
                raise
            continue  # `entry` has told that it cannot be read
        for each in below:
            last = os.fsdecode(each.name)
            name = here + "/" + last if here else last
            if _left_out(name, last, excludes):
                continue
            yield name
            if each.is_dir(follow_symlinks=False):
                pending.append(name)


def _left_out(name: str, last: str, excludes: List[str]) -> bool:
    """A pattern with a slash is of the whole name, another of any part of it."""
    return any(
        fnmatch.fnmatchcase(name if "/" in pattern else last, pattern.strip("/"))
        for pattern in excludes
    )


class _Report:
    def __init__(self, request: Dict[str, Any], out: BinaryIO) -> None:
        self._top = os.fsencode(request["top"])
        self._piece = request["piece"]
        self._known = request["known"]
        self._have = set(request["have"])
        self._out = out
        self._now = time.time_ns()

    def say(self, values: Dict[str, Any]) -> None:
        self._frame(json.dumps(values).encode())

    def _frame(self, data: bytes) -> None:
        self._out.write(_LENGTH.pack(len(data)) + data)

    def entry(self, name: str) -> None:
        path = os.path.join(self._top, os.fsencode(name))
        try:
            status = os.lstat(path)
            said = {
                "name": name,
                "mode": stat.S_IMODE(status.st_mode),
                "mtime_ns": status.st_mtime_ns,
            }
            if stat.S_ISREG(status.st_mode):
                self._file(path, status, said)
            elif stat.S_ISDIR(status.st_mode):
                os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
                self.say({**said, "kind": "directory"})
            elif stat.S_ISLNK(status.st_mode):
                target = os.fsdecode(os.readlink(path))
                self.say({**said, "kind": "symlink", "target": target})
        except FileNotFoundError:
            pass  # removed while we walked
        except OSError as error:
            self.say({"name": name, "kind": "unread", "why": os.strerror(error.errno or 0)})

    def _file(self, path: bytes, status: os.stat_result, said: Dict[str, Any]) -> None:
        seen = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if self._known.get(said["name"]) == seen:
            self.say({**said, "kind": "same"})
            return
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(source, "rb", buffering=0) as file:
            opened = os.fstat(source)
            if not stat.S_ISREG(opened.st_mode):
                return  # it was a file a moment ago
            old = self._now - max(status.st_ctime_ns, status.st_mtime_ns) > _FRESH_NS
            self.say({**said, "kind": "file", "seen": seen if old else None})
            left = opened.st_size  # what is appended meanwhile is the next capture's
            try:
                while left > 0:
                    content = _read(file, min(self._piece, left))
                    left = left - len(content) if len(content) == self._piece else 0
                    if not content:
                        break
                    digest = hashlib.sha256(content).hexdigest()
                    have = digest in self._have
                    self._frame(b"h" + digest.encode() if have else b"d" + content)
            finally:
                self._frame(b"")


def _read(file: BinaryIO, size: int) -> bytes:
    """So many bytes, or all there are."""
    parts: List[bytes] = []
    while size > 0:
        part = file.read(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
