"""What happens to a sandbox, told to whoever listens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from sandboxkit.listeners import Listeners

Kind = Literal[
    "connection_lost",
    "reconnected",
    "paused",
    "resumed",
    "extended",
    "ended",
    "detached",
    "destroyed",
]
"""
- `connection_lost`: the way into it broke; it is being made again.
- `reconnected`: it has been. No process and no byte was lost.
- `ended`: nothing more can be done with it; `why` says what has ended it.
- `detached`: this host has let go of it.
- `destroyed`: this host has ended it.
"""

_REMEMBERED: Final = 100


@dataclass(frozen=True, slots=True)
class SandboxEvent:
    """Something that has happened to a sandbox.

    Attributes:
        at: When, aware, UTC, by this machine's clock.
        kind: What.
        why: The reason, where there is more to say; never a secret.
    """

    at: datetime
    kind: Kind
    why: str = ""


class Happenings:
    """What has happened to one sandbox, as `sandbox.events`."""

    def __init__(self) -> None:
        self._kept: deque[SandboxEvent] = deque(maxlen=_REMEMBERED)
        self._listeners = Listeners[SandboxEvent]("sandbox.events")

    @property
    def past(self) -> tuple[SandboxEvent, ...]:
        """The last 100, oldest first."""
        return tuple(self._kept)

    def listen(self, listener: Callable[[SandboxEvent], object]) -> Callable[[], None]:
        """Have each told to a function, on the event loop, when it has happened.

        What it raises is logged.

        Returns:
            What ends it.
        """
        return self._listeners.add(listener)

    def pass_on(self, event: SandboxEvent) -> None:
        """What happens to something else happens to this, too."""
        self.tell(event.kind, event.why)

    def tell(self, kind: Kind, why: str = "") -> None:
        """One more. Never raises."""
        event = SandboxEvent(datetime.now(UTC), kind, why)
        self._kept.append(event)
        self._listeners.tell(event)
