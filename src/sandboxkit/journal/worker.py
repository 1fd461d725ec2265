"""One thread that does one thing after the other, and never keeps an event loop waiting."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import anyio

from sandboxkit.concurrency import answered

T = TypeVar("T")


class Worker:
    """A thread for what may block, such as a file on a disk that hangs.

    The end of the program does not wait for it.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._process: int | None = None
        self._since: float | None = None  # when the job under way has begun

    async def do(self, job: Callable[[], T], *, wait_s: float) -> T:
        """Do something after all that was asked for before, and wait for its result.

        Cancelling, or waiting too long, leaves it to the thread: it is done all the same.

        Raises:
            TimeoutError: It is not done within `wait_s`, or what is before it hangs.
        """
        if self._hangs(wait_s):
            raise TimeoutError
        future, work = answered(job)
        self._put(work)
        with anyio.fail_after(wait_s):
            return await future

    def finish(self, job: Callable[[], object], *, wait_s: float) -> None:
        """Do one last thing at the end of the program; not for an event loop."""
        if self._process != os.getpid() or self._hangs(wait_s):
            return
        done = threading.Event()

        def work() -> None:
            with contextlib.suppress(Exception):
                job()
            done.set()

        self._jobs.put(work)
        done.wait(wait_s)

    def _hangs(self, wait_s: float) -> bool:
        since = self._since
        return since is not None and time.monotonic() - since > wait_s

    def _put(self, work: Callable[[], None]) -> None:
        with self._starting:
            if self._process != os.getpid():
                self._process = os.getpid()
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._jobs.put(work)

    def _run(self) -> None:
        while True:
            work = self._jobs.get()
            self._since = time.monotonic()
            work()
            self._since = None
