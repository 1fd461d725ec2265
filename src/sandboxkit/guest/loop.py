"""The guest's event loop: file descriptors, timers, children that end. No threads."""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import select
import signal
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
_F_SETPIPE_SZ = 1031  # in fcntl from Python 3.10 on

Callback = Callable[[], None]


class Watch:
    """A file descriptor and what to do when it is ready. Owns the descriptor."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        on_readable: Optional[Callback] = None,
        on_writable: Optional[Callback] = None,
    ) -> None:
        self._loop = loop
        self.fd = fd
        self.on_readable = on_readable
        self.on_writable = on_writable
        self._mask = 0
        self.closed = False

    def want(self, read: Optional[bool] = None, write: Optional[bool] = None) -> None:
        """Switch interest on or off; None leaves it as it is."""
        mask = self._mask
        for flag, wanted in ((READ, read), (WRITE, write)):
            if wanted is not None:
                mask = mask | flag if wanted else mask & ~flag
        if mask == self._mask or self.closed:
            return
        epoll, watches = self._loop.epoll, self._loop.watches
        if not mask:
            epoll.unregister(self.fd)
            del watches[self.fd]
        elif not self._mask:
            epoll.register(self.fd, mask)
            watches[self.fd] = self
        else:
            epoll.modify(self.fd, mask)
        self._mask = mask

    def ready(self, events: int) -> None:
        # An error or a hang-up wakes whoever is interested: it will find out by itself.
        broken = events & ~(READ | WRITE)
        if self._mask & READ and (events & READ or broken) and self.on_readable:
            self.on_readable()
        if self._mask & WRITE and (events & WRITE or broken) and self.on_writable:
            self.on_writable()

    def close(self) -> None:
        if not self.closed:
            self.want(read=False, write=False)
            self.closed = True
            os.close(self.fd)


class Loop:
    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.watches: Dict[int, Watch] = {}
        self.before_wait: List[Callback] = []
        self._children: Dict[int, Callable[[int], None]] = {}
        self._timers: List[Tuple[float, int, Callback]] = []
        self._timer_count = 0
        self._running = True
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._wake = Watch(self, wake_read, self._woken)
        self._wake.want(read=True)

    def later(self, delay_s: float, callback: Callback) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._timer_count, callback))

    def on_child(self, pid: int, callback: Callable[[int], None]) -> None:
        """Call back with the exit code (negative for a signal) when `pid` has ended."""
        self._children[pid] = callback

    def run(self) -> None:
        while self._running:
            for callback in self.before_wait:
                guarded(callback)
            # Looked up before the first is called: it may close a descriptor of another,
            # and open a new one of the same number.
            polled = self.epoll.poll(self._until_timer(), 256)
            for watch, events in [(self.watches.get(fd), events) for fd, events in polled]:
                if watch is not None and not guarded(watch.ready, events):
                    watch.close()  # or it would fail for ever
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                guarded(heapq.heappop(self._timers)[2])

    def stop(self) -> None:
        self._running = False

    def _until_timer(self) -> float:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1

    def _woken(self) -> None:
        try:
            os.read(self._wake.fd, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            self.child_ended(pid, code)

    def child_ended(self, pid: int, code: int) -> None:
        """Call back, once, who waits for this child."""
        callback = self._children.pop(pid, None)
        if callback is not None:
            guarded(callback, code)


def guarded(callback: Callable[..., None], *arguments: Any) -> bool:
    """Call back. A failure is logged and ends nothing else; whether there was none."""
    try:
        callback(*arguments)
    except Exception as error:  # noqa: BLE001
        log(error)
        return False
    return True


def log(error: BaseException) -> None:
    """Write a failure of ours to stderr; the traceback module is slow to import."""
    sys.excepthook(type(error), error, error.__traceback__)


def read_some(fd: int, count: int) -> Optional[bytes]:
    """Bytes; empty at the end (a PTY ends with EIO); None if there is nothing now."""
    try:
        return os.read(fd, count)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise


def widen(pipe: int, size: int) -> None:
    """Let a pipe hold more, so that a flood needs fewer wake-ups; a socket stays as it is."""
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, size)
    except OSError:
        pass
