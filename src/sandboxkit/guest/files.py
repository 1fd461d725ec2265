"""File operations, each run in a child that has the caller's user and may block.

A file's bytes go over the child's stdin and stdout, the result over its connection.
Only regular files are read or written: a FIFO or a device planted at a path is
refused, and never waited for.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import stat
from typing import Any, Callable, Dict, Optional, Tuple

from . import trees
from .channels import failure

MAX_REQUEST = 64 * 1024  # bytes of a request to a worker
MAX_ANSWER = 64 * 1024
_BLOCK = 256 * 1024
_MAX_NAMES = 5  # of what was left out of a tree: the answer must fit

Request = Dict[str, Any]
Result = Dict[str, Any]


def serve() -> None:
    """A worker's life: do what comes over descriptor 3, one operation after another."""
    connection = socket.socket(fileno=3)
    null = os.open(os.devnull, os.O_RDWR)
    while True:
        data, extra, _flags, _from = connection.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(2 * 4))
        if not data:
            return
        request = json.loads(data)
        streams = array.array("i")
        for _level, _type, rights in extra:
            streams.frombytes(rights)
        for number, fd in zip(request["streams"], streams):
            os.dup2(fd, number)
        answer = _perform(request)
        for number in request["streams"]:
            os.dup2(null, number)
        os.closerange(5, 64)  # what the operation has left open
        connection.send(answer)


def _perform(request: Request) -> bytes:
    try:
        result = OPERATIONS[request["do"]](request)
    except OSError as error:
        message = "%s: %s" % (error.filename or request.get("path"), error.strerror)
        result = failure("file", message, error.errno)
    except (Unsafe, trees.TreeError) as error:
        result = failure("unsafe_path", str(error))
    except Exception as error:  # noqa: BLE001 - the host is told, whatever it is
        result = failure("file", "%s: %r" % (request.get("path"), error))
    return json.dumps(result).encode()


class Unsafe(Exception):
    """The path leads to something that is not a plain file or directory."""


def _open_regular(path: str, flags: int, mode: int = 0o666) -> int:
    # O_NONBLOCK: a FIFO without a writer must not hold us up.
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, mode)
    kind = os.fstat(fd).st_mode
    if stat.S_ISREG(kind):
        return fd
    os.close(fd)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise Unsafe("%s is not a regular file" % path)


def _copy(source: int, target: int, count: Optional[int] = None) -> int:
    copied = 0
    while count is None or copied < count:
        block = os.read(source, _BLOCK if count is None else min(_BLOCK, count - copied))
        if not block:
            break
        copied += len(block)
        while block:
            block = block[os.write(target, block) :]
    return copied


def _read(request: Request) -> Result:
    fd = _open_regular(request["path"], os.O_RDONLY)
    offset = int(request.get("offset") or 0)
    if offset:
        os.lseek(fd, offset, os.SEEK_SET)
    return {"copied": _copy(fd, 1, request.get("limit"))}


def _write(request: Request) -> Result:
    path, mode = request["path"], request.get("mode")
    if request.get("parents"):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if request.get("append"):
        fd = _open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return {"copied": _copy(0, fd)}
    return {"copied": _replace(os.path.realpath(path), mode, bool(request.get("exclusive")))}


def _replace(path: str, mode: Optional[int], exclusive: bool) -> int:
    """Write beside the file and rename: it has its old content or all of the new one."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is not None:
        if exclusive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        os.close(_open_regular(path, os.O_WRONLY))  # may it be written, and is it a file?
    beside = "%s/.%s.%d" % (os.path.dirname(path), os.path.basename(path)[:200], os.getpid())
    try:
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except PermissionError:
            if old is None:
                raise
            return _copy(0, _open_regular(path, os.O_WRONLY | os.O_TRUNC))
        copied = _copy(0, fd)
        if mode is None and old is not None:
            mode = stat.S_IMODE(old.st_mode)
        if mode is not None:
            os.fchmod(fd, mode)
        if exclusive:
            os.link(beside, path)
            os.unlink(beside)
        else:
            os.rename(beside, path)
    except BaseException:
        if os.path.lexists(beside):
            os.unlink(beside)
        raise
    return copied


def describe(path: str, name: str, follow: bool) -> Result:
    status = os.stat(path) if follow else os.lstat(path)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "other")
    return {
        "name": name,
        "kind": kind,
        "size": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "mtime": status.st_mtime,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "target": os.readlink(path) if kind == "symlink" else None,
    }


def _stat(request: Request) -> Result:
    path = request["path"]
    return describe(path, os.path.basename(path), bool(request.get("follow", True)))


def _list(request: Request) -> Result:
    """One JSON line for each entry on stdout: a directory may hold very many."""
    count = 0
    with os.scandir(request["path"]) as entries, os.fdopen(1, "wb", closefd=False) as out:
        for entry in entries:
            try:
                line = json.dumps(describe(entry.path, entry.name, False))
            except FileNotFoundError:
                continue
            out.write(line.encode() + b"\n")
            count += 1
    return {"count": count}


def _remove(request: Request) -> Result:
    path = request["path"]
    try:
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        if request.get("missing_ok"):
            return {}
        raise
    if not is_directory:
        os.unlink(path)
    elif request.get("recursive"):
        import shutil

        shutil.rmtree(path)
    else:
        os.rmdir(path)
    return {}


def _make_dir(request: Request) -> Result:
    path, exist_ok = request["path"], bool(request.get("exist_ok"))
    if request.get("parents"):
        os.makedirs(path, exist_ok=exist_ok)
        return {}
    try:
        os.mkdir(path)
    except FileExistsError:
        if not exist_ok or not os.path.isdir(path):
            raise
    return {}


def _move(request: Request) -> Result:
    source, target = request["path"], request["target"]
    if not request.get("overwrite") and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        import shutil

        shutil.move(source, target)
    return {}


def _pack(request: Request) -> Result:
    with os.fdopen(1, "wb", buffering=_BLOCK, closefd=False) as out:
        skipped = trees.pack(request["path"], out)
        return {"skipped": len(skipped), "names": [name[:1000] for name in skipped[:_MAX_NAMES]]}


def _unpack(request: Request) -> Result:
    with os.fdopen(0, "rb", buffering=_BLOCK, closefd=False) as source:
        return {"count": trees.unpack(source, request["path"], confined=False)}


OPERATIONS: Dict[str, Callable[[Request], Result]] = {
    "read": _read,
    "write": _write,
    "stat": _stat,
    "list": _list,
    "remove": _remove,
    "make_dir": _make_dir,
    "move": _move,
    "pack": _pack,
    "unpack": _unpack,
}

# The descriptors that the others do not need.
STREAMS: Dict[str, Tuple[int, ...]] = {
    "read": (1,),
    "write": (0,),
    "list": (1,),
    "pack": (1,),
    "unpack": (0,),
}
