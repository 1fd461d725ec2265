"""Places of which there are so many, taken in order by tasks of any thread and event loop."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque

import anyio


class Place:
    """A place that was taken. Dropping it releases it, too."""

    def __init__(self, of: Places) -> None:
        self._of = of
        self.given: asyncio.Future[None] | None = None  # while it is waited for

    def release(self) -> None:
        """Give it back, from any thread. Idempotent."""
        self._of.give_back(self)

    def retake(self) -> None:
        """Take it again, at once: there may then be more taken than there are."""
        self._of.claim(self)

    def give(self) -> None:
        """Let it be known, on the loop of who waits."""
        if self.given is not None and not self.given.done():
            self.given.set_result(None)


class Places:
    """So many places, given in the order in which they were asked for.

    What is counted belongs to the process; each waits on its own event loop.

    Args:
        count: How many there are; None is without end.
    """

    def __init__(self, count: int | None) -> None:
        self._lock = threading.Lock()
        # Weak: a place that was forgotten with its sandbox is free again, and no finalizer
        # of the garbage collector ever wants the lock.
        self._taken: weakref.WeakSet[Place] = weakref.WeakSet()
        self._waiting: deque[Place] = deque()
        self.count = count

    def resize(self, count: int | None) -> None:
        """Have so many. What is taken beyond stays so."""
        if count != self.count:
            with self._lock:
                self.count = count
                self._hand_out()

    async def take(self, wait_s: float) -> Place:
        """Take a place; wait for one at most `wait_s` seconds.

        Cancelling gives back what was taken meanwhile.

        Raises:
            TimeoutError: None became free.
        """
        place = Place(self)
        with self._lock:
            self._hand_out()  # to those before us, what was forgotten
            if self._is_room() and not self._waiting:
                self._taken.add(place)
                return place
            if wait_s <= 0:
                raise TimeoutError
            place.given = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
        try:
            with anyio.fail_after(wait_s):
                await place.given
        except BaseException:
            self.give_back(place)
            raise
        place.given = None
        return place

    def claim(self, place: Place | None = None) -> Place:
        """Take a place at once, for something that is there already."""
        claimed = place if place is not None else Place(self)
        with self._lock:
            self._taken.add(claimed)
        return claimed

    def give_back(self, place: Place) -> None:
        """Release a place, whether it is taken or still waited for."""
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
            self._taken.discard(place)
            self._hand_out()

    def _is_room(self) -> bool:
        return self.count is None or len(self._taken) < self.count

    def _hand_out(self) -> None:
        while self._waiting and self._is_room():
            place = self._waiting.popleft()
            if place.given is None:
                continue
            self._taken.add(place)
            try:
                place.given.get_loop().call_soon_threadsafe(place.give)
            except RuntimeError:  # its loop has been closed, and nobody waits any more
                self._taken.discard(place)
