"""What the emulators have in common: a thread and a loop of their own, machines, faults."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from tests.emulators.faults import Faults
from tests.emulators.machines import Machines

T = TypeVar("T")

_START_S = 30.0
_CALL_S = 60.0


class Emulator(ABC):
    """One emulated cloud on a loopback port.

    It runs in a thread of its own, so that a slow test cannot slow it, nor it a test's
    loop. Used as `with` from any thread.

    Args:
        host: The address of the Docker engine that has the machines.

    Attributes:
        url: Where it listens, such as `http://127.0.0.1:4711`.
        faults: What goes wrong, and what was asked for.
    """

    def __init__(self, host: str) -> None:
        self.url = ""
        self.faults = Faults()
        self._host = host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.machines: Machines

    @abstractmethod
    async def serve(self) -> str:
        """Start to listen; returns the URL."""

    @abstractmethod
    async def shut(self) -> None:
        """Stop to listen, and end all tasks."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The variables that point the unmodified SDK at this emulator, a key among them."""

    @abstractmethod
    def sandboxes(self) -> set[str]:
        """The ids of all sandboxes that the account has now, paused ones too."""

    @abstractmethod
    async def end(self, sandbox_id: str) -> None:
        """End a sandbox as its life-time, or somebody else, would."""

    @abstractmethod
    async def rest(self, sandbox_id: str, seconds: float) -> None:
        """Have it be so long ago that anything was asked of a sandbox; returns when that was seen.

        What is being asked of it just then counts, as far as it does with the real service.
        """

    def end_now(self, sandbox_id: str) -> None:
        """`end`, from a test's thread."""
        self.ask(self.end(sandbox_id))

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the emulator's loop, from another thread."""
        asking: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return asking.result(_CALL_S)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.ask(self._start())
        except BaseException:
            self._stop_thread()
            raise
        return self

    async def _start(self) -> None:
        self.machines = Machines(self._host)
        async with asyncio.timeout(_START_S):
            self.url = await self.serve()

    def __exit__(self, *_exc: object) -> None:
        try:
            self.ask(self._stop())
        finally:
            self._stop_thread()

    async def _stop(self) -> None:
        try:
            await self.shut()
        finally:
            await self.machines.aclose()

    def _stop_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
