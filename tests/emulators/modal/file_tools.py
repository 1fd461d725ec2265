"""The program that Modal puts into every sandbox for its calls on files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PATH: Final = "/__modal/.bin/modal-sandbox-fs-tools"
_MAX_READ: Final = 5 * 1024**3

_SOURCE: Final = r"""
import json, os, shutil, stat, sys
from grp import getgrgid
from pwd import getpwuid

LIMIT = int(sys.argv[2])

class Refused(Exception):
    pass

def info(path):
    found = os.lstat(path)
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "file")
    mode = stat.S_IMODE(found.st_mode)
    entry = {
        "name": os.path.basename(path) or "/", "path": path, "type": kind,
        "size": found.st_size, "mode": mode, "permissions": "%04o" % mode,
        "owner": named(getpwuid, found.st_uid), "group": named(getgrgid, found.st_gid),
        "modified_time": found.st_mtime,
    }
    if kind == "symlink":
        entry["symlink_target"] = os.readlink(path)
    return entry

def named(look, number):
    try:
        return look(number)[0]
    except KeyError:
        return str(number)

def read(path, **_):
    if os.path.isdir(path):
        raise IsADirectoryError(path)
    if os.path.getsize(path) > LIMIT:
        raise Refused("FileTooLarge")
    with open(path, "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)

def write(path, **_):
    if os.path.isdir(path):
        raise IsADirectoryError(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)

def make(path, parents=True, **_):
    if parents and os.path.lexists(path) and not os.path.isdir(path):
        raise NotADirectoryError(path)
    os.makedirs(path, exist_ok=True) if parents else os.mkdir(path)

def remove(path, recursive=False, **_):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path) if recursive else os.rmdir(path)
    else:
        os.remove(path)

def list_files(path, **_):
    print(json.dumps([info(os.path.join(path, name)) for name in sorted(os.listdir(path))]))

def stat_file(path, **_):
    print(json.dumps(info(path)))

DOES = {"ReadFile": read, "WriteFile": write, "MakeDirectory": make, "Remove": remove,
        "ListFiles": list_files, "Stat": stat_file}
KINDS = ((FileNotFoundError, "NotFound"), (IsADirectoryError, "IsDirectory"),
         (NotADirectoryError, "NotDirectory"), (PermissionError, "PermissionDenied"),
         (FileExistsError, "PathAlreadyExists"))

def fail(kind, message):
    json.dump({"version": 1, "error_kind": kind, "message": message}, sys.stderr)
    sys.exit(1)

[(name, arguments)] = json.loads(sys.argv[1]).items()
if name not in DOES:
    fail("NotSupported", name + " is not emulated")
try:
    DOES[name](**arguments)
except Refused as error:
    fail(str(error), "refused")
except OSError as error:
    kinds = [kind for cls, kind in KINDS if isinstance(error, cls)]
    if error.errno == 39:
        kinds = ["DirectoryNotEmpty"]
    fail(kinds[0] if kinds else "Io", str(error))
"""


def command(arguments: Sequence[str]) -> list[str]:
    """The command line that does the same; the emulator's images have Python."""
    return ["python3", "-c", _SOURCE, *arguments[:1], str(_MAX_READ)]
