"""Children that do file operations: each as one user, one operation after another.

An operation needs its user's rights and may block, so the guest does not do it itself.
A fork costs a millisecond or more, so a child that is done waits for the next operation.
"""

from __future__ import annotations

import array
import errno
import os
import signal
import socket
import time
from typing import Callable, Dict, List, Optional, Sequence

from . import files, spawn
from .loop import Loop, Watch

# The answer, or None and the exit code of a worker that was killed.
OnAnswer = Callable[[Optional[bytes], int], None]

_IDLE = 2  # workers of one user that are kept for the next operation
_IDLE_S = 10.0  # for so long
_GRACE_S = 1.0  # to remove a half-written file, before it is killed


class Worker:
    """One child. `free` is called when it can take another operation."""

    def __init__(self, loop: Loop, user: spawn.User, free: Callable[[Worker], None]) -> None:
        self.user = user
        self.alive = True
        self.idle_since = 0.0
        self._loop, self._free = loop, free
        self._doomed = False
        self._on_answer: Optional[OnAnswer] = None
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = spawn.fork(user, its.fileno(), files.serve)
        except BaseException:
            self._socket.close()
            raise
        finally:
            its.close()
        self._socket.setblocking(False)
        self._watch = Watch(loop, os.dup(self._socket.fileno()), on_readable=self._read)
        self._watch.want(read=True)
        loop.on_child(self.pid, self._exited)

    def do(self, request: bytes, fds: Sequence[int], on_answer: OnAnswer) -> None:
        """Start an operation; OSError if the worker has been killed."""
        rights = array.array("i", fds)
        self._kill(signal.SIGCONT)  # its user may have stopped it
        self._socket.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        self._on_answer = on_answer

    def _read(self) -> None:
        try:
            data = self._socket.recv(files.MAX_ANSWER)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._watch.want(read=False)  # its end will be told by `_exited`
            return
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(data, 0)
        if not self._doomed:
            self._free(self)

    def _exited(self, code: int) -> None:
        self.alive = False
        self._doomed = True
        self._read()  # it may have answered before its end
        self.retire()
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(None, code)

    def retire(self) -> None:
        """Let it go: without its connection it ends."""
        self._watch.close()
        self._socket.close()

    def abort(self) -> None:
        """End it in the middle of its operation; it removes what it has half written."""
        self._doomed = True
        self._kill(signal.SIGTERM)
        self._loop.later(_GRACE_S, lambda: self._kill(signal.SIGKILL))

    def _kill(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)


class Workers:
    """The workers of all users."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._idle: Dict[int, List[Worker]] = {}  # by user id

    def do(
        self, user: spawn.User, request: bytes, fds: Sequence[int], on_answer: OnAnswer
    ) -> Worker:
        """Give an operation to a worker that waits, or to a new one.

        Raises:
            StartError: The request is too long, or there are not enough resources.
        """
        if len(request) > files.MAX_REQUEST:
            message = os.strerror(errno.ENAMETOOLONG)
            raise spawn.StartError("file", message, errno.ENAMETOOLONG)
        idle = self._idle.get(user.uid, [])
        while idle:
            worker = idle.pop()
            try:
                worker.do(request, fds, on_answer)
            except OSError:
                continue  # it was killed while it waited
            return worker
        worker = Worker(self._loop, user, self._keep)
        worker.do(request, fds, on_answer)
        return worker

    def _keep(self, worker: Worker) -> None:
        idle = self._idle.setdefault(worker.user.uid, [])
        if len(idle) >= _IDLE:
            worker.retire()
            return
        worker.idle_since = time.monotonic()
        idle.append(worker)
        self._loop.later(_IDLE_S, lambda: self._retire_if_idle(worker))

    def _retire_if_idle(self, worker: Worker) -> None:
        idle = self._idle.get(worker.user.uid, [])
        if worker in idle and time.monotonic() - worker.idle_since >= _IDLE_S:
            idle.remove(worker)
            worker.retire()
