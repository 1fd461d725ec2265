"""The workers of a map: inputs in, outcomes out, a failed sandbox replaced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, Generic, cast

import anyio

from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import BudgetExceededError, CapacityError
from sandboxkit.gateway.model.budget import Budget
from sandboxkit.many.inputs import Inputs
from sandboxkit.many.job import FailedSandboxError, Job
from sandboxkit.many.journal import Journal
from sandboxkit.many.outcome import I, MapProgress, Outcome, V

log = logging.getLogger(__name__)

_STOP_S: Final = 240.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 20.0


class Run(Generic[I, V]):
    """Everything that goes on for one `map`.

    Args:
        inputs: The inputs.
        begin: Makes the job, when the first outcome is asked for; what it opens is
            closed at the end.
        concurrency: How many inputs are worked on at once.
        retries: How often an input gets another sandbox.
        budgets: What must not be spent yet when an input is begun.
        journal: Where results are kept, and found; None is nowhere.
        listeners: Each is called with each change.

    Attributes:
        progress: How far it is.
    """

    def __init__(
        self,
        inputs: Inputs[I],
        begin: Callable[[contextlib.AsyncExitStack], Awaitable[Job[I, V]]],
        *,
        concurrency: int,
        retries: int,
        budgets: Sequence[Budget],
        journal: Journal | None,
        listeners: Sequence[Callable[[MapProgress], None]],
    ) -> None:
        self._inputs, self._begin = inputs, begin
        self._concurrency, self._retries = concurrency, retries
        self._budgets, self._journal, self._listeners = budgets, journal, listeners
        self.progress = MapProgress(total=inputs.total)
        self._outcomes: asyncio.Queue[Outcome[I, V] | None] = asyncio.Queue(concurrency)
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = False

    async def next(self) -> Outcome[I, V]:
        """The next outcome. Cancelling it stops everything.

        Raises:
            StopAsyncIteration: There are no more.
            Exception: What the inputs, the journal or the choice of the backend raised.
        """
        if self._over:
            raise StopAsyncIteration
        if self._task is None:
            self._task = asyncio.create_task(self._all(), name="sandboxkit-map")
        try:
            outcome = await self._outcomes.get()
        except asyncio.CancelledError:
            await self.stop()
            raise
        if outcome is not None:
            return outcome
        self._over = True
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopAsyncIteration

    async def stop(self) -> None:
        """End what is under way, and wait until it has ended; not cut by cancellation."""
        if self._over:
            return
        self._over = True
        with contextlib.suppress(TimeoutError):
            await run_to_end(cancel_and_wait(self._task), deadline_s=_STOP_S)
        while not self._outcomes.empty():
            self._outcomes.get_nowait()
        self._outcomes.put_nowait(None)  # for whoever waits in another task

    def stop_soon(self) -> None:
        """The same from outside the loop's flow: the results were dropped without a word."""
        if self._task is not None and not self._task.done():
            with contextlib.suppress(RuntimeError):  # the loop is gone
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _all(self) -> None:
        try:
            await self._workers()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            self._error = _first(error)
        await self._outcomes.put(None)

    async def _workers(self) -> None:
        async with contextlib.AsyncExitStack() as opened:
            job = await self._begin(opened)
            if self._journal is not None:
                await opened.enter_async_context(self._journal)
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._work(job))

    async def _work(self, job: Job[I, V]) -> None:
        while (taken := await self._inputs.next()) is not None:
            await self._outcomes.put(await self._outcome(job, *taken))

    async def _outcome(self, job: Job[I, V], index: int, value: I) -> Outcome[I, V]:
        if self._journal is not None:
            entry = await self._journal.find(index, value)
            if entry is not None:
                self._tell(done=1, resumed=1)
                kept: V = entry.value  # type: ignore[assignment]
                return Outcome(index, value, kept, None, entry.attempts, resumed=True)
        self._tell(running=1)
        try:
            result, error, attempts = await self._tried(job, value)
            if self._journal is not None and error is None:
                await self._journal.keep(index, value, result, attempts)
        finally:
            self._tell(running=-1)
        self._tell(**{"done" if error is None else "failed": 1})
        return Outcome(index, value, result, error, attempts)

    async def _tried(self, job: Job[I, V], value: I) -> tuple[V | None, Exception | None, int]:
        attempts = 0
        while True:
            try:
                for budget in self._budgets:
                    budget.check()
                attempts += 1
                return await job.attempt(value), None, attempts
            except FailedSandboxError as failed:
                error = failed.__cause__
                if not isinstance(error, Exception) or attempts > self._retries:
                    return None, error if isinstance(error, Exception) else failed, attempts
                log.warning("a sandbox failed, and its task gets another one: %s", error)
                self._tell(retried=1)
                await anyio.sleep(_pause_s(attempts, error))
            except BudgetExceededError as error:
                return None, error, attempts
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                return None, RuntimeError("the task has cancelled itself"), attempts
            except Exception as error:  # noqa: BLE001 - one input's failure is its outcome
                return None, error, attempts

    def _tell(self, **changes: int) -> None:
        now = self.progress
        sums = {name: getattr(now, name) + change for name, change in changes.items()}
        self.progress = replace(now, **sums)
        for listener in self._listeners:
            try:
                listener(self.progress)
            except Exception:
                log.exception("on_progress of a map failed")


def _first(error: Exception) -> Exception:
    """What the first of the workers has failed by."""
    if isinstance(error, ExceptionGroup):
        return cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error


def _pause_s(attempts: int, error: Exception) -> float:
    pause = min(_FIRST_PAUSE_S * 2.0 ** (attempts - 1), _LONGEST_PAUSE_S)
    pause *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads, hides nothing
    named = error.retry_after_s if isinstance(error, CapacityError) else None
    return max(pause, named or 0.0)
