"""The states of a session, and which follows which: docs/lifecycle.md has them as a table."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from sandboxkit.errors import InvalidStateError
from sandboxkit.listeners import Listeners

SessionState = Literal[
    "new", "creating", "ready", "running", "idle", "paused", "saved", "closed", "failed"
]
"""
- `new`: made, and not entered yet.
- `creating`: the machine is being made, or made again, and the agent started.
- `ready`: a prompt can be given.
- `running`: a prompt is being worked on.
- `idle`: nothing has been done in it for its idle time-out.
- `paused`: the machine is frozen.
- `saved`: there is no machine; the conversation and the files are kept.
- `failed`: the machine could not be made, or was lost.
- `closed`: over, for good.
"""

FOLLOWS: Final[Mapping[SessionState, frozenset[SessionState]]] = {
    "new": frozenset({"creating", "closed"}),
    "creating": frozenset({"ready", "failed", "closed"}),
    "ready": frozenset({"running", "idle", "paused", "saved", "failed", "closed"}),
    "running": frozenset({"ready", "failed", "closed"}),
    "idle": frozenset({"ready", "running", "paused", "saved", "failed", "closed"}),
    "paused": frozenset({"ready", "saved", "failed", "closed"}),
    "saved": frozenset({"creating", "closed"}),
    "failed": frozenset({"creating", "closed"}),
    "closed": frozenset(),
}
"""What may follow each state. Nothing follows itself."""

_REMEMBERED: Final = 100
_BEHIND: Final = 10_000


@dataclass(frozen=True, slots=True)
class StateChange:
    """A session has passed from one state to another.

    Attributes:
        before: The state that it was in.
        after: The one that it is in.
        why: The reason, where there is more to say than the state does; never a secret.
        at: When, aware, UTC, by this machine's clock.
    """

    before: SessionState
    after: SessionState
    why: str
    at: datetime


class States:
    """A session's state, to be read and followed; the session alone changes it.

    For one event loop, that of the session.
    """

    def __init__(self) -> None:
        self._state: SessionState = "new"
        self._changes: deque[StateChange] = deque(maxlen=_REMEMBERED)
        self._listeners = Listeners[StateChange]("a session's state")

    def __repr__(self) -> str:
        return f"<States {self._state}>"

    @property
    def now(self) -> SessionState:
        """The state that the session is in."""
        return self._state

    @property
    def changes(self) -> tuple[StateChange, ...]:
        """The last 100 changes, oldest first."""
        return tuple(self._changes)

    def listen(self, listener: Callable[[StateChange], object]) -> Callable[[], None]:
        """Have each change told to a function, on the event loop, when it has happened.

        What it raises is logged.

        Returns:
            What ends it.
        """
        return self._listeners.add(listener)

    async def follow(self) -> AsyncIterator[StateChange]:
        """The changes from now on; it ends when the session is closed.

        Of a reader who is more than 10,000 changes behind, the oldest are dropped.
        """
        waiting: deque[StateChange] = deque(maxlen=_BEHIND)
        there = asyncio.Event()

        def told(change: StateChange) -> None:
            waiting.append(change)
            there.set()

        end = self.listen(told)
        try:
            while waiting or self._state != "closed":
                there.clear()
                while waiting:
                    yield waiting.popleft()
                if self._state != "closed":
                    await there.wait()
        finally:
            end()

    async def reached(self, *states: SessionState) -> SessionState:
        """Wait until the session is in one of these states; which one.

        Raises:
            InvalidStateError: It has been closed, and none of them can follow.
        """
        arrived: asyncio.Future[SessionState] = asyncio.get_running_loop().create_future()

        def told(change: StateChange) -> None:
            if not arrived.done() and (change.after in states or change.after == "closed"):
                arrived.set_result(change.after)

        end = self.listen(told)
        try:
            state = self._state
            if state not in states and state != "closed":
                state = await arrived
        finally:
            end()
        if state not in states:
            raise InvalidStateError(f"The session has been closed; it was never {states[0]} again.")
        return state


class StateMachine(States):
    """A session's state, to be changed: by the rules alone."""

    def to(self, state: SessionState, why: str = "") -> StateChange:
        """Pass to another state, and tell who listens.

        Raises:
            InvalidStateError: It cannot follow the one that the session is in.
        """
        if not self.can(state):
            possible = ", ".join(sorted(FOLLOWS[self._state])) or "nothing"
            raise InvalidStateError(
                f"A session that is {self._state} cannot become {state}: from there it can become "
                f"{possible}."
            )
        change = StateChange(self._state, state, why, datetime.now(UTC))
        self._state = state
        self._changes.append(change)
        self._listeners.tell(change)
        return change

    def fail(self, error: BaseException) -> None:
        """Pass to `failed`, with the reason, if that may follow."""
        if self.can("failed"):
            self.to("failed", str(error) or type(error).__name__)

    def can(self, state: SessionState) -> bool:
        """Whether that state may follow."""
        return state in FOLLOWS[self._state]
