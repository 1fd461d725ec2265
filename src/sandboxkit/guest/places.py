"""Where users of their own have their files, and the folders that they share.

    /home/sandboxkit/            root's; others may pass through, and not look
        <name>/                  root's, and of the user's group: nobody else gets in
            home/ work/ tmp/     the user's

A shared folder is root's, and of a group that those are in who have named it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, Callable, Dict, List, Optional, Set

from . import spawn

_BASES = ("/home", "/var/lib", "/opt")  # the first that nobody but root can change
_LIST = "/etc/passwd"
_PASS_THROUGH, _FOR_GROUP, _SHARED = 0o711, 0o770, 0o2770  # in a shared one, all is its group's
_OPEN_TO_ALL = (
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/dev/mqueue",
)  # where a user may have left something, too


class _As:
    """What is done in this block is done with a group, and maybe a user, of another.

    The guest has a single thread.
    """

    def __init__(self, group: int, uid: int = 0) -> None:
        self._group, self._uid = group, uid

    def __enter__(self) -> None:
        os.setegid(self._group)
        os.seteuid(self._uid)

    def __exit__(self, *_: object) -> None:
        os.seteuid(0)
        os.setegid(0)


def path_of(name: str) -> str:
    """Where the user of this name has its place.

    Raises:
        StartError: There is no directory that is root's alone.
    """
    return "%s/%s" % (_base(), name)


def _base() -> str:
    for parent in _BASES:
        base = parent + "/sandboxkit"
        try:
            os.makedirs(parent, 0o755, exist_ok=True)
            if not _is_roots(parent):
                continue
            if not os.path.lexists(base):
                os.mkdir(base, 0o700)
                os.chmod(base, _PASS_THROUGH)
            if _is_roots(base):
                return base
        except OSError:
            continue
    message = "no directory of %s is root's alone and can be written to" % ", ".join(_BASES)
    raise spawn.StartError("no_place", message)


def _is_roots(path: str) -> bool:
    """Whether nobody but root can put something else in the place of what is in there."""
    status = os.lstat(path)
    closed = not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and closed


def numbers() -> Set[int]:
    """The users whose places are there, whoever has made them."""
    with os.scandir(_base()) as entries:
        return {entry.stat(follow_symlinks=False).st_gid for entry in entries}


def owner_of(path: str) -> Optional[int]:
    """Whose place is there; None where none is."""
    try:
        return os.lstat(path).st_gid
    except FileNotFoundError:
        return None


def make(path: str, user: spawn.User) -> None:
    """Make a user's place. It may be there, and the user's.

    Raises:
        OSError: It cannot be made; of two who try at once, the second has `FileExistsError`.
    """
    if owner_of(path) != user.gid:
        os.mkdir(path, 0o700)
        with _As(user.gid):
            os.chown(path, -1, user.gid)
            os.chmod(path, _FOR_GROUP)
    with _As(user.gid, user.uid):
        for name in ("home", "work", "tmp"):
            if not os.path.isdir("%s/%s" % (path, name)):
                os.mkdir("%s/%s" % (path, name), 0o700)


def share(path: str, free: Callable[[], int]) -> int:
    """The group of a shared folder, which is made if it is not there.

    Raises:
        StartError: Others than root could put something else in its place.
    """
    above = "/"
    for part in path.strip("/").split("/")[:-1]:
        if not _is_roots(above):
            break
        above = os.path.join(above, part)
        if not os.path.lexists(above):
            os.mkdir(above, 0o700)
            os.chmod(above, _PASS_THROUGH)
    if not _is_roots(above):
        message = "%s can be changed by others than root, and so the shared folder %s could be "
        message += "replaced; name one like /shared/board"
        raise spawn.StartError("unsafe_folder", message % (above, path))
    if not os.path.lexists(path):
        os.mkdir(path, 0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0:
        raise spawn.StartError("unsafe_folder", "%s is not a directory of root's" % path)
    if stat.S_IMODE(status.st_mode) != _SHARED:
        if os.listdir(path):
            message = "%s is there, and not empty: a shared folder is made by its sessions"
            raise spawn.StartError("unsafe_folder", message % path)
        group = free()
        with _As(group):
            os.chown(path, -1, group)
            os.chmod(path, _SHARED)
        return group
    return status.st_gid


# names, for programs that ask who they are


def enter(user: spawn.User) -> None:
    """Enter the user in the list of users, where that can be written to."""
    line = "%s:*:%d:%d::%s:/bin/sh\n" % (user.name, user.uid, user.gid, user.home)
    _rewrite(lambda lines: [one for one in lines if not _is_of(one, user)] + [line])


def _is_of(line: str, user: spawn.User) -> bool:
    return line.split(":")[:1] == [user.name]


def _rewrite(change: Callable[[List[str]], List[str]]) -> None:
    path = os.path.realpath(_LIST)
    beside = path + ".sandboxkit"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
        lines = change((text if text.endswith("\n") or not text else text + "\n").splitlines(True))
        with open(beside, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(lines)
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except OSError:  # they have a number all the same
        if os.path.exists(beside):
            os.unlink(beside)


# the end


def wipe(user: spawn.User) -> None:
    """As the user: remove all that it has, save what is in shared folders."""
    _forget_memory(user.uid)
    for top in (os.path.dirname(user.home), *_OPEN_TO_ALL):
        try:
            with os.scandir(top) as entries:
                mine = [e.path for e in entries if e.stat(follow_symlinks=False).st_uid == user.uid]
        except OSError:
            continue
        _empty(top, mine)


def _forget_memory(uid: int) -> None:
    """Memory, queues and semaphores of System V, which have no place among the files."""
    try:
        import ctypes

        libc = ctypes.CDLL(None)
    except (ImportError, OSError):
        return
    remove: Dict[str, Callable[[int], Any]] = {
        "shm": lambda number: libc.shmctl(number, 0, None),
        "msg": lambda number: libc.msgctl(number, 0, None),
        "sem": lambda number: libc.semctl(number, 0, 0),
    }
    for kind, rid in remove.items():
        try:
            with open("/proc/sysvipc/" + kind) as table:
                column = table.readline().split().index("uid")
                rows = [row.split() for row in table]
        except (OSError, ValueError):
            continue
        for row in rows:
            if int(row[column]) == uid:
                rid(int(row[1]))


def _empty(top: str, paths: List[str]) -> None:
    """Remove files and trees of any depth: what lies deeper is moved up first."""
    waiting, count = list(paths), 0
    while waiting:
        path = waiting.pop()
        try:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                continue
            os.chmod(path, 0o700)
            with os.scandir(path) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                        continue
                    count += 1
                    os.chmod(entry.path, 0o700)
                    up = "%s/.sandboxkit-%d-%d" % (top, os.getpid(), count)
                    os.rename(entry.path, up)
                    waiting.append(up)
            os.rmdir(path)
        except OSError:
            continue


def remove(user: spawn.User) -> None:
    """As root: remove the place, which is empty, and the name."""
    path = os.path.dirname(user.home)
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno != errno.ENOENT:  # it is nobody's, and not in the way
            os.rename(path, "%s/.left-%s" % (os.path.dirname(path), os.urandom(8).hex()))
    _rewrite(lambda lines: [one for one in lines if not _is_of(one, user)])
