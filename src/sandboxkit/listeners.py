"""Functions that are told of something as it happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Listeners(Generic[T]):
    """Who listens to one thing.

    Args:
        what: The thing, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._listeners: dict[object, Callable[[T], object]] = {}

    def add(self, listener: Callable[[T], object]) -> Callable[[], None]:
        """One more; what is returned ends it, and may be called again."""
        key = object()
        self._listeners[key] = listener

        def end() -> None:
            self._listeners.pop(key, None)

        return end

    def tell(self, news: T) -> None:
        """Tell all of them; what they raise is logged."""
        for listener in list(self._listeners.values()):
            try:
                listener(news)
            except Exception:
                log.exception("a listener to %s has failed", self._what)
