"""Keeping the stock of a pool at its size: machines are made, watched and ended."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import InvalidSpecError, SandboxClosedError
from sandboxkit.pool.backoff import BackOff
from sandboxkit.pool.machine import Machine, ended
from sandboxkit.pool.stock import Stock
from sandboxkit.sandbox import Sandbox

log = logging.getLogger(__name__)

_AT_ONCE: Final = 10  # machines that are made at the same time


class Supply:
    """A stock, and all that is on its way to it or from it.

    A machine is in the stock, or claimed, or being ended, and never between them: the end
    of the pool finds each.

    Args:
        create: Creates a sandbox for nobody yet; leaves nothing behind if it fails.
        size: How many are to be ready.
        max_age_s: For how long one may wait.
        on_failure: Called with each error of `create`.

    Attributes:
        size: See above; `adjust` is called after it was changed.
        stock: The machines that are ready, and who waits for one.
        claimed: The sandboxes that have an owner.
        backoff: How the backend does.
        changed: Set at the next change, and then another event.
    """

    def __init__(
        self,
        create: Callable[[], Awaitable[Sandbox]],
        size: int,
        max_age_s: float,
        on_failure: Callable[[Exception], None] | None,
    ) -> None:
        self._create = create
        self.size = checked_size(size)
        self._max_age_s = max_age_s
        self._on_failure = on_failure
        self.stock = Stock(self._given, self._returned)
        self.backoff = BackOff()
        self.claimed: dict[Sandbox, asyncio.Task[None]] = {}
        self.changed = asyncio.Event()
        self._making: set[asyncio.Task[None]] = set()
        self._watching: dict[Machine, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._context = contextvars.copy_context()
        self._running = False

    @property
    def making(self) -> int:
        """How many machines are being made."""
        return len(self._making)

    def begin(self) -> None:
        """Make the first ones."""
        self._context = contextvars.copy_context()
        self._running = True
        self.adjust()

    def adjust(self) -> None:
        """Begin whatever brings the stock to its size; called after each change."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        if not self._running:
            return
        while len(self.stock) > self.size and (machine := self.stock.drop()):
            self.end(machine)
        missing = self.size + self.stock.waiting - self.stock.fresh - len(self._making)
        if missing > 0 and (pause_s := self.backoff.pause_s) > 0:
            if self._again is None:
                self._again = asyncio.get_running_loop().call_later(pause_s, self._try_again)
            return
        most = 1 if self.backoff.failure is not None else _AT_ONCE
        for _ in range(min(missing, most - len(self._making))):
            self._start(self._make(), self._making)

    def _try_again(self) -> None:
        self._again = None
        self.adjust()

    async def _make(self) -> None:
        try:
            sandbox = await self._create()
            try:
                machine = Machine(sandbox, self._max_age_s)
            except BaseException:
                await sandbox.destroy()
                raise
        except Exception as error:  # noqa: BLE001 - a plugin's own fault is told as well
            self._failed(error)
            return
        self.backoff.succeeded()
        self._watching[machine] = self._task(self._watch(machine))
        self.stock.put(machine)

    def _failed(self, error: Exception) -> None:
        self.backoff.failed(error)
        again_s = self.backoff.pause_s
        log.warning("the pool could not make a machine, again in %.1f s: %s", again_s, error)
        if self.backoff.lasting:
            self.stock.refuse(error)
        if self._on_failure is not None:
            try:
                self._on_failure(error)
            except Exception:
                log.exception("on_failure of a pool failed")

    async def _watch(self, machine: Machine) -> None:
        """Replace a machine that dies or grows old while it waits."""
        if not await machine.ageing():
            self.adjust()
            await machine.ending()
        self._watching.pop(machine, None)
        if self.stock.remove(machine):
            self.end(machine)
            self.adjust()

    def _unwatch(self, machine: Machine) -> None:
        watch = self._watching.pop(machine, None)
        if watch is not None:
            watch.cancel()

    def end(self, machine: Machine) -> None:
        """Destroy a machine, beside whatever goes on."""
        self._unwatch(machine)
        self._start(ended([machine.sandbox]), self._ending)

    def _start(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        task = self._task(work)
        among.add(task)

        def done(task: asyncio.Task[None]) -> None:
            among.discard(task)
            self.adjust()

        task.add_done_callback(done)

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the pool's own: it has nothing of the context of who claims."""
        return self._context.run(asyncio.get_running_loop().create_task, work)

    # claims

    def _given(self, machine: Machine) -> None:
        """It counts as claimed from this moment on."""
        self._unwatch(machine)
        self.claimed[machine.sandbox] = self._task(self._until_ended(machine.sandbox))

    def _returned(self, machine: Machine) -> None:
        if not self._running:  # the end of the pool finds it among those that are claimed
            self.end(machine)
            return
        self.claimed.pop(machine.sandbox).cancel()
        self._watching[machine] = self._task(self._watch(machine))
        self.stock.put(machine, first=True)

    async def _until_ended(self, sandbox: Sandbox) -> None:
        await sandbox.ended.wait()
        self.claimed.pop(sandbox, None)

    # the end

    async def empty(self) -> None:
        """Make and keep nothing any more; those that are claimed stay."""
        self._running = False
        if self._again is not None:
            self._again.cancel()
        self.stock.refuse(SandboxClosedError("The pool was closed, or drained."))
        await cancel_and_wait(*self._making)
        while machine := self.stock.drop():
            self.end(machine)
        while self._ending:
            await asyncio.wait(list(self._ending))
        self.adjust()  # who waits for it to be filled hears of the end

    async def close(self) -> None:
        """End everything, also what is claimed."""
        await self.empty()
        while self.claimed or self._ending:
            await ended(list(self.claimed))
            if tasks := [*self.claimed.values(), *self._ending]:
                await asyncio.wait(tasks)


def checked_size(size: int) -> int:
    """The size, if a pool can have it.

    Raises:
        InvalidSpecError: It cannot.
    """
    if isinstance(size, bool) or size < 0:
        raise InvalidSpecError(f"the size of a pool must be 0 or more, not {size!r}")
    return size
