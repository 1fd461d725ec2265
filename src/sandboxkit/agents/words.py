"""What an agent writes beside its messages (its stderr), told to the session that started it.

The listener is carried by a context variable, so that it reaches the task that reads the
agent's stderr without a parameter in every signature.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], object] | None] = ContextVar(
    "sandboxkit_agent_words", default=None
)


@contextlib.contextmanager
def hearing(listener: Callable[[str], object]) -> Generator[None]:
    """Have the lines of agents that are started in this block told to a function."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def said(line: str) -> None:
    """The agent has written a line; nobody need hear it."""
    listener = _listener.get()
    if listener is not None:
        listener(line)
