"""Cancelling at every await: each place where a task waits is a place where it may end."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

Work = Coroutine[Any, Any, object]
Moment = Literal["waiting", "ready"]
"""While it waits for something; or in the same turn of the loop in which that has come."""

MOMENTS: tuple[Moment, ...] = ("waiting", "ready")
_MOST = 500


class _Cut:
    """`work`, whose task is cancelled when it waits for the n-th time."""

    def __init__(self, work: Work, at: int, moment: Moment) -> None:
        self._work, self._at, self._moment = work, at, moment
        self.reached = False

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        loop, waits = asyncio.get_running_loop(), 0
        steps = self._work.__await__()
        error: BaseException | None = None

        def cancel(_: object) -> None:
            task.cancel()

        while True:
            try:
                awaited = steps.send(None) if error is None else steps.throw(error)
            except StopIteration:
                return
            if waits == self._at:
                self.reached = True
                if self._moment == "ready" and awaited is not None:
                    awaited.add_done_callback(cancel)  # before the one that wakes the task
                else:
                    loop.call_soon(task.cancel)
            waits += 1
            error = None
            try:
                yield awaited
            except BaseException as raised:  # noqa: BLE001 - it is the work's to see
                error = raised


async def _run(cut: _Cut) -> None:
    await cut


async def cancel_at_every_await(begin: Callable[[], Awaitable[Work]]) -> int:
    """Run the same work again and again, cancelled each time one wait later.

    Work that was cancelled too late may end well, or fail: it has to clean up as ever.

    Args:
        begin: Makes ready, uncancelled, and returns what is cancelled.

    Returns:
        How often it was cancelled.
    """
    times = 0
    for moment in MOMENTS:
        for at in range(_MOST):
            cut = _Cut(await begin(), at, moment)
            task = asyncio.ensure_future(_run(cut))
            done, _ = await asyncio.wait({task}, timeout=60)
            assert done, f"cancelled at its wait number {at} ({moment}), it does not end"
            if not task.cancelled():
                task.result()
            if not cut.reached:
                break
            times += 1
        else:
            raise AssertionError(f"it waits more than {_MOST} times")
    return times


def sockets() -> set[str]:
    """The sockets and pipes that this process has open."""
    found = set[str]()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:")):
            found.add(target)
    return found


@asynccontextmanager
async def nothing_lost() -> AsyncGenerator[None]:
    """Whatever the block opens is closed when it ends, and not by the garbage collector."""
    gc.collect()
    before = sockets()
    gc.disable()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ResourceWarning)
            yield
            for _ in range(100):  # what was closed goes a turn of the loop later
                if sockets() <= before:
                    break
                await asyncio.sleep(0.02)
            left = sockets() - before
            gc.collect()
    finally:
        gc.enable()
    lost = [str(one.message) for one in said if issubclass(one.category, ResourceWarning)]
    assert not lost, "\n".join(lost)
    assert not left, f"still open: {left}"
