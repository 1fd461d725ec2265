"""A child that starts programs for the guest, so that it need not fork for each.

To start a program as another user the guest must fork, and copy its own page tables
each time. A child that is that user already can vfork, which takes half as long.

Its user can kill it. Then what it has started becomes the guest's own children, for the
guest is a subreaper, and no exit code is lost; the next program is started by a fork.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Sequence

from . import spawn
from .loop import Loop, Watch

_MAX_REQUEST = 64 * 1024  # bytes; a longer one is left to a fork
_MAX_ANSWER = 16 * 1024
_LOOK_S = 0.1  # between two looks whether it has been stopped, while the guest waits for it
_PATIENCE_S = 5.0
_WHEN_IDLE_S = 0.2  # after the first program, whose start must not wait for this
_PR_SET_CHILD_SUBREAPER = 36


class Starters:
    """One starter for each user who needs one."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._starters: Dict[int, Optional[Starter]] = {}  # None where there is none yet

    def program(
        self,
        user: spawn.User,
        streams: spawn.Streams,
        argv: List[str],
        env: Dict[str, str],
        cwd: str,
    ) -> int:
        """Start a program, as `spawn.program` does."""
        starter = self._find(user)
        if starter is not None and not streams.tty:
            order = json.dumps([argv, env, cwd, streams.stdin >= 0]).encode()
            if len(order) <= _MAX_REQUEST:
                return starter.start(order, [fd for fd in streams[:3] if fd >= 0], argv[0], cwd)
        return spawn.program(user, streams, argv, env, cwd)

    def _find(self, user: spawn.User) -> Optional[Starter]:
        """The user's starter; if there is none, it is made when there is time."""
        if user.is_me or sys.version_info < (3, 10):  # Python uses vfork from 3.10 on
            return None
        starter = self._starters.get(user.uid)
        if starter is not None and starter.usable:
            return starter
        if starter is not None or user.uid not in self._starters:
            self._starters[user.uid] = None
            self._loop.later(_WHEN_IDLE_S, lambda: self._make(user))
        return None

    def _make(self, user: spawn.User) -> None:
        if not spawn.is_there(user):
            del self._starters[user.uid]
        elif _become_subreaper():
            self._starters[user.uid] = Starter(self._loop, user)

    def check(self) -> None:
        """Do without those that their user has stopped: they would not tell an end."""
        for starter in self._starters.values():
            if starter is not None:
                starter.check()


class Starter:
    def __init__(self, loop: Loop, user: spawn.User) -> None:
        self._loop = loop
        self.usable = True
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._pid = spawn.fork(user, its.fileno(), _serve)
        finally:
            its.close()
        self._watch = Watch(loop, os.dup(self._socket.fileno()), on_readable=self._read)
        self._watch.want(read=True)
        loop.on_child(self._pid, self._ended)

    def start(self, order: bytes, fds: Sequence[int], name: str, cwd: str) -> int:
        """Start a program; its end is told to the loop. StartError if that fails."""
        self._kill(signal.SIGCONT)  # its user may have stopped it
        self._socket.settimeout(_LOOK_S)
        try:
            rights = array.array("i", fds)
            self._socket.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            answer = self._answer()
        except (OSError, ValueError) as error:
            self._give_up()
            raise spawn.StartError("lost", "what starts programs was killed: %s" % error) from error
        if "pid" in answer:
            return int(answer["pid"])
        failed = OSError(answer["errno"], answer["message"], answer["name"])
        raise spawn.explained(failed, name, cwd)

    def _answer(self) -> Dict[str, Any]:
        """The answer to an order, for which the guest waits: it takes less than a fork."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = self._receive()
            except socket.timeout:
                if self._stopped() or time.monotonic() > deadline:
                    raise
                continue
            if "ended" not in answer:
                return answer

    def check(self) -> None:
        if self.usable and self._stopped():
            self._give_up()

    def _stopped(self) -> bool:
        try:
            with open("/proc/%d/stat" % self._pid, "rb") as status:
                return status.read().rpartition(b") ")[2][:1] in (b"T", b"t")
        except OSError:
            return False

    def _receive(self) -> Dict[str, Any]:
        answer: Dict[str, Any] = json.loads(self._socket.recv(_MAX_ANSWER))
        if "ended" in answer:
            self._loop.child_ended(int(answer["ended"]), int(answer["status"]))
        return answer

    def _read(self) -> None:
        self._socket.settimeout(0)
        try:
            while True:
                self._receive()
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """It is not what it should be. What it has started will be the guest's own."""
        self.usable = False
        self._watch.want(read=False)
        self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        if self._pid:
            os.kill(self._pid, number)

    def _ended(self, _code: int) -> None:
        self._pid = 0
        self._read()  # what it has still told
        self._give_up()
        self._watch.close()
        self._socket.close()


def _become_subreaper() -> bool:
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return False
    return bool(prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _serve() -> None:
    """The starter's life: start what comes over descriptor 3, tell what has ended."""
    connection = socket.socket(fileno=3)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == woken:
                os.read(woken, 4096)
                _tell_ended(connection)
            elif not _start_one(connection):
                return


def _start_one(connection: socket.socket) -> bool:
    space = socket.CMSG_SPACE(3 * 4)
    data, extra, _flags, _from = connection.recvmsg(_MAX_REQUEST, space, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return False
    fds = array.array("i")
    for _level, _type, rights in extra:
        fds.frombytes(rights)
    argv, env, cwd, stdin = json.loads(data)
    answer: Dict[str, Any]
    try:
        started = subprocess.Popen(
            argv,
            stdin=fds[0] if stdin else subprocess.DEVNULL,
            stdout=fds[-2],
            stderr=fds[-1],
            env=env,
            cwd=cwd,
            start_new_session=True,
            close_fds=False,
        )
        started.returncode = 0  # reaped below, not by Popen
        answer = {"pid": started.pid}
    except OSError as error:
        answer = {"errno": error.errno, "message": error.strerror, "name": error.filename}
    for fd in fds:
        os.close(fd)
    connection.send(json.dumps(answer).encode())
    return True


def _tell_ended(connection: socket.socket) -> None:
    while True:
        try:
            # Told before it is reaped: if we are killed in between, the guest reaps it.
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        exited = ended.si_code == os.CLD_EXITED
        status = ended.si_status if exited else -ended.si_status
        connection.send(json.dumps({"ended": ended.si_pid, "status": status}).encode())
        os.waitpid(ended.si_pid, 0)
