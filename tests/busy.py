"""How long an event loop computes in one go, by the clock of its thread.

That clock stands still while another thread or process has the processor, so a busy
machine accuses nobody. Waiting is what `tests/blocking.py` notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Generator
from typing import Any, NamedTuple


class Step(NamedTuple):
    """What a loop ran in one go.

    Attributes:
        seconds: Of the processor.
        what: The callback, or the task that went on.
    """

    seconds: float
    what: str


@contextlib.contextmanager
def steps_longer_than(seconds: float) -> Generator[list[Step]]:
    """Collect the steps of the running loop that take longer.

    Rounds of the garbage collector do not count: they cost what the whole run has made.
    """
    found: list[Step] = []
    me, loop = threading.get_ident(), asyncio.get_running_loop()
    handles: Any = asyncio.Handle
    run = handles._run
    collected = began = 0.0

    def collecting(phase: str, _info: dict[str, int]) -> None:
        nonlocal collected, began
        if threading.get_ident() == me:
            now = time.thread_time()
            if phase == "stop":
                collected += now - began
            began = now

    def timed(handle: Any) -> None:
        what = handle._callback
        before, collected_before = time.thread_time(), collected
        run(handle)
        took = time.thread_time() - before - (collected - collected_before)
        if took > seconds and handle._loop is loop:
            found.append(Step(took, repr(getattr(what, "__self__", what))))

    gc.callbacks.append(collecting)
    handles._run = timed
    try:
        yield found
    finally:
        handles._run = run
        gc.callbacks.remove(collecting)
