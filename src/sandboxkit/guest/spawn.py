"""Starting children as the right user: programs, and functions in a fork of the guest."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import termios
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .loop import read_some

MARKER = "SANDBOXKIT_PROCESS"  # in the environment of all that a channel starts

_ENDING = {signal.SIGTERM, signal.SIGINT}

_CODES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.EACCES: "not_executable",
    errno.ENOEXEC: "not_executable",
    errno.E2BIG: "too_long",
    errno.EAGAIN: "no_resources",
    errno.ENOMEM: "no_resources",
    errno.EMFILE: "no_resources",
    errno.ENFILE: "no_resources",
}
_MAX_UID = 2**32 - 2
_MAX_USERS = 64  # that are remembered
_MAX_NOTE = 16 * 1024  # characters


class StartError(Exception):
    """The child cannot be started; `code` is one of those of docs/protocol.md."""

    def __init__(self, code: str, message: str, number: Optional[int] = None) -> None:
        super().__init__(message)
        self.code, self.message, self.number = code, message, number


def checked_note(note: Any) -> str:
    """What a host notes for others, with what outlives it."""
    if note is not None and (not isinstance(note, str) or len(note) > _MAX_NOTE):
        raise StartError("failed", "a note is text of %d characters at most" % _MAX_NOTE)
    return note or ""


class User(NamedTuple):
    uid: int
    gid: int
    groups: List[int]
    name: str
    home: str
    umask: int = 0o022
    processes: Optional[int] = None  # how many it may have, where that is limited

    @property
    def is_me(self) -> bool:
        return self.uid == os.getuid()


OWN: Dict[str, User] = {}  # those that the guest has made, by the key of a request


def find_user(wanted: Optional[str], fallback_home: str) -> User:
    """The user by name or number; a number need not be in the image's passwd.

    Raises:
        StartError: There is no such user, or the guest may not become it.
    """
    own = OWN.get(wanted or "")
    if own is not None:
        return own
    key = (wanted, fallback_home, _changed("/etc/passwd"), _changed("/etc/group"))
    if key not in _users:
        if len(_users) >= _MAX_USERS:
            _users.clear()
        _users[key] = _look_up(wanted, fallback_home)
    return _users[key]


def is_there(user: User) -> bool:
    """Whether a user of ours has not been removed meanwhile; others always are."""
    return user.processes is None or user in OWN.values()


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _look_up(wanted: Optional[str], fallback_home: str) -> User:
    uid = os.getuid() if wanted is None else int(wanted) if wanted.isdigit() else None
    try:
        entry = pwd.getpwuid(uid) if uid is not None else pwd.getpwnam(str(wanted))
    except KeyError:
        if uid is None or uid > _MAX_UID:
            raise StartError("bad_user", "there is no user %r in the image" % wanted) from None
        user = User(uid, uid, [uid], str(uid), fallback_home)
    else:
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        home = entry.pw_dir if os.path.isdir(entry.pw_dir) else fallback_home
        user = User(entry.pw_uid, entry.pw_gid, groups, entry.pw_name, home)
    if os.getuid() != 0 and not user.is_me:
        raise StartError("bad_user", "the guest may not start processes as user %s" % user.name)
    return user


_users: Dict[Tuple[Optional[str], str, int, int], User] = {}


class _Sacrifice:
    """What is started in this block goes first when memory runs out, not the guest."""

    def __init__(self) -> None:
        self._before = b"0"  # no less than this may be set again without privileges
        try:
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            self._before = os.read(self._fd, 16).strip()
        except OSError:
            self._fd = -1

    def __enter__(self) -> None:
        self._set(b"%d" % min(1000, int(self._before) + 500))

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    def _set(self, value: bytes) -> None:
        if self._fd != -1:
            try:
                os.pwrite(self._fd, value, 0)
            except OSError:
                pass


_sacrifice = _Sacrifice()


class Streams(NamedTuple):
    """What the child gets as 0, 1 and 2; DEVNULL is nothing."""

    stdin: int
    stdout: int
    stderr: int
    tty: bool = False


def program(user: User, streams: Streams, argv: List[str], env: Dict[str, str], cwd: str) -> int:
    """Start a program in a session of its own.

    Returns:
        Its pid. The loop reaps it.

    Raises:
        StartError: It could not be started.
    """
    options: Dict[str, Any] = {"cwd": cwd}
    own = user.processes is not None
    # The directory of a user of ours is one that root cannot enter; the pipe tells why.
    why, told = os.pipe2(os.O_CLOEXEC) if own else (-1, -1)
    if sys.version_info >= (3, 9) and not own:
        options["umask"] = user.umask
        if not user.is_me:
            options.update(user=user.uid, group=user.gid, extra_groups=user.groups)
        if streams.tty:
            options["preexec_fn"] = _take_terminal
    else:
        options = {"cwd": None if own else cwd}
        options["preexec_fn"] = lambda: _prepare(user, streams.tty, cwd if own else None, told)
    try:
        with _sacrifice:
            started = subprocess.Popen(
                argv,
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr,
                env=env,
                start_new_session=True,
                close_fds=False,  # all of ours close by themselves on exec
                **options,
            )
    except OSError as error:
        raise explained(error, argv[0], cwd) from error
    except subprocess.SubprocessError as error:
        number = _said(why)
        if number:
            raise explained(OSError(number, os.strerror(number), cwd), argv[0], cwd) from error
        raise StartError("failed", "cannot start %s: %s" % (argv[0], error)) from error
    finally:
        for fd in (why, told) if own else ():
            os.close(fd)
    started.returncode = 0  # ours to reap, not Popen's
    return started.pid


def _said(why: int) -> int:
    if why == -1:
        return 0
    os.set_blocking(why, False)
    return int(read_some(why, 16) or 0)


def _prepare(user: User, tty: bool, cwd: Optional[str], told: int) -> None:
    """In the child, what Popen cannot do, or not in this order."""
    os.umask(user.umask)
    _limit(user)
    _become(user)
    if cwd is not None:
        try:
            os.chdir(cwd)
        except OSError as error:
            os.write(told, b"%d" % (error.errno or 0))
            raise
    if tty:
        _take_terminal()


def explained(error: OSError, name: str, cwd: str) -> StartError:
    if error.filename == cwd and cwd != name:
        message = "cannot enter the directory %s: %s" % (cwd, error.strerror)
        return StartError("bad_cwd", message, error.errno)
    message = "cannot start %s: %s" % (name, error.strerror)
    return StartError(code_of(error), message, error.errno)


def code_of(error: BaseException) -> str:
    """The code of docs/protocol.md for what went wrong."""
    if isinstance(error, StartError):
        return error.code
    return _CODES.get(error.errno or 0, "failed") if isinstance(error, OSError) else "failed"


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _limit(user: User) -> None:
    if user.processes is None:
        return
    try:
        import resource
    except ImportError:  # the smallest Pythons are without it
        return
    _soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    most = user.processes if hard == resource.RLIM_INFINITY else min(hard, user.processes)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))


def _become(user: User) -> None:
    if not user.is_me:
        os.setgroups(user.groups)
        os.setgid(user.gid)
        os.setuid(user.uid)


def fork(user: User, connection: int, body: Callable[[], None]) -> int:
    """Run `body` in a fork of the guest, as `user`.

    Args:
        user: Who it runs as.
        connection: The one descriptor that it keeps, as number 3; its 0, 1 and 2 are
            those of the guest.
        body: What it does; its return or failure is the end of the child.

    Returns:
        Its pid.

    Raises:
        StartError: There are not enough resources.
    """
    # Until it has handlers of its own, a signal would run the guest's in the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        with _sacrifice:
            pid = os.fork()
            if pid == 0:
                _run(user, connection, body)
    except OSError as error:
        raise StartError("no_resources", "cannot fork: %s" % error.strerror, error.errno) from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    return pid


def _run(user: User, connection: int, body: Callable[[], None]) -> None:
    """The child's whole life: nothing may return into the parent's loop."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in _ENDING:
            signal.signal(number, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        os.setsid()
        os.dup2(connection, 3, inheritable=False)
        # Pipes of other children, held open here, would keep their readers waiting.
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 3:
                try:
                    os.close(int(name))
                except OSError:
                    continue
        os.umask(user.umask)
        _limit(user)
        _become(user)
        body()
        os._exit(0)
    finally:
        os._exit(1)


def _leave(_number: int, _frame: object) -> None:
    """Unwind, so that a file operation removes what it has half written."""
    raise SystemExit
