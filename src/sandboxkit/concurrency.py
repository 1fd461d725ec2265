"""Cleanup that cancellation cannot cut short, and tasks that nobody forgets.

anyio's shield stops cancellation by anyio scopes only. `task.cancel()`,
`asyncio.wait_for` and the end of the loop reach through it, so what must run to its
end runs here in a task of its own, with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

import anyio

T = TypeVar("T")


async def run_to_end(work: Coroutine[Any, Any, T], *, deadline_s: float) -> T:
    """Run `work` to its end, however often the caller is cancelled meanwhile.

    Args:
        work: What must not be cut short.
        deadline_s: Seconds after which `work` itself is cancelled.

    Raises:
        TimeoutError: `work` took longer than `deadline_s`.
        asyncio.CancelledError: The caller was cancelled; raised when `work` has ended.
    """

    async def bounded() -> T:
        with anyio.fail_after(deadline_s):
            return await work

    task = asyncio.ensure_future(bounded())
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled():
            task.exception()  # marked as seen: the cancellation is what the caller gets
        raise asyncio.CancelledError
    return task.result()


async def obtain(
    work: Coroutine[Any, Any, T], *, release: Callable[[T], Awaitable[None]], deadline_s: float
) -> T:
    """Run `work`, which makes something, to its end; nobody loses what it made.

    Args:
        work: Makes the thing.
        release: Undoes it, if the caller was cancelled meanwhile.
        deadline_s: Seconds for `work`, and again for `release`.

    Raises:
        TimeoutError: `work` took longer than `deadline_s`.
        asyncio.CancelledError: The caller was cancelled; the thing has been released.
    """
    made: list[T] = []

    async def make() -> None:
        made.append(await work)

    try:
        await run_to_end(make(), deadline_s=deadline_s)
    except asyncio.CancelledError:
        if made:
            await run_to_end(_call(release, made[0]), deadline_s=deadline_s)
        raise
    return made[0]


async def _call(function: Callable[[T], Awaitable[None]], value: T) -> None:
    await function(value)


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks and wait until each has ended; their outcomes are dropped."""
    alive: set[asyncio.Task[Any]] = set()
    for task in tasks:
        if task is None:
            continue
        if task.done():
            seen(task)
            continue
        alive.add(task)
        task.add_done_callback(seen)  # whether or not we are cancelled before it ends
        task.cancel()
    if alive:
        await asyncio.wait(alive)


def seen(task: asyncio.Task[Any]) -> None:
    """Say that the task's outcome, if it has failed, needs no report by asyncio."""
    if not task.cancelled():
        task.exception()


def answered(job: Callable[[], T]) -> tuple[asyncio.Future[T], Callable[[], None]]:
    """A future of the running loop, and what does the job in another thread and settles it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("T", result))

    def work() -> None:
        result, failure = None, None
        try:
            result = job()
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(settle, result, failure)

    return future, work


async def apart(function: Callable[..., T], *arguments: object) -> T:
    """Run what may block for ever in a thread that the end of the program does not wait for.

    Cancelling leaves the thread to itself. What the function raises is raised.
    """
    future, work = answered(lambda: function(*arguments))
    threading.Thread(target=work, daemon=True).start()
    return await future
