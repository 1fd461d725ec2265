"""Progress of slow steps (an image pull, a build, an upload), told to whoever listens.

A provider calls `report`; an application listens with `listening`. The listener is
carried by a context variable, so that it reaches worker threads and plugins without
a parameter in every signature.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of something slow.

    Attributes:
        step: What is being done, such as `pull debian:12`.
        done: How much is done, in `unit`; None where that is not known.
        total: How much there is, in `unit`; None where that is not known.
        unit: `bytes` or `items`.
        finished: Whether this is the last report of the step.
    """

    step: str
    done: int | None = None
    total: int | None = None
    unit: str = "bytes"
    finished: bool = False


Listener = Callable[[Progress], None]

_listener: ContextVar[Listener | None] = ContextVar("sandboxkit_progress", default=None)


@contextlib.contextmanager
def listening(listener: Listener | None) -> Generator[None]:
    """Send what is reported in this block to `listener` (None keeps the outer one).

    The listener may be called from a worker thread and must not block.
    """
    token = _listener.set(listener if listener is not None else _listener.get())
    try:
        yield
    finally:
        _listener.reset(token)


def report(progress: Progress) -> None:
    """Tell the listener, if there is one. Its failure never breaks the work."""
    listener = _listener.get()
    if listener is None:
        return
    try:
        listener(progress)
    except Exception:
        log.exception("a progress listener failed")
