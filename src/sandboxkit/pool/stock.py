"""The machines that are ready, and who waits for one: each machine goes to one taker."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable

from sandboxkit.pool.machine import Machine


class Stock:
    """Ready machines, oldest first, and takers in the order in which they came.

    All of it happens on one event loop, and nothing is awaited between looking and taking:
    a machine that is taken is out of reach for everybody else.

    Args:
        given: Called with a machine in the moment in which it is a taker's.
        returned: Called with one whose taker was gone before it could have it, and that is
            not touched; it is out of the stock until it is put back.
    """

    def __init__(
        self, given: Callable[[Machine], None], returned: Callable[[Machine], None]
    ) -> None:
        self._given, self._returned = given, returned
        self._ready: deque[Machine] = deque()
        self._waiting: deque[asyncio.Future[Machine]] = deque()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def fresh(self) -> int:
        """How many are ready and need nobody in their place yet."""
        return sum(not machine.aged for machine in self._ready)

    @property
    def waiting(self) -> int:
        """How many takers wait."""
        return len(self._waiting)

    def put(self, machine: Machine, *, first: bool = False) -> None:
        """Give a machine to who waits longest, or keep it; `first`: it is the next to go."""
        if self._waiting:
            self._given(machine)
            self._waiting.popleft().set_result(machine)
        elif first:
            self._ready.appendleft(machine)
        else:
            self._ready.append(machine)

    def take(self) -> Machine | None:
        """The oldest machine for a taker, if there is one."""
        machine = self.drop()
        if machine is not None:
            self._given(machine)
        return machine

    def drop(self) -> Machine | None:
        """The oldest machine, for nobody."""
        return self._ready.popleft() if self._ready else None

    def join(self) -> asyncio.Future[Machine]:
        """A place in the queue of takers; `wait` gives it up in any case."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        return place

    async def wait(self, place: asyncio.Future[Machine], wait_s: float) -> Machine:
        """Wait for a machine.

        Cancelling returns what was received meanwhile.

        Raises:
            TimeoutError: There was none for so long.
        """
        try:
            await asyncio.wait({place}, timeout=wait_s)
            if place.done():
                return place.result()
        except asyncio.CancelledError:
            if place.done() and place.exception() is None:
                self._returned(place.result())
            raise
        finally:
            if place in self._waiting:
                self._waiting.remove(place)
        raise TimeoutError

    def remove(self, machine: Machine) -> bool:
        """Take out this machine; False where somebody has taken it."""
        if machine not in self._ready:
            return False
        self._ready.remove(machine)
        return True

    def refuse(self, error: Exception) -> None:
        """Tell all who wait that there will be none."""
        while self._waiting:
            self._waiting.popleft().set_exception(copy.copy(error))
