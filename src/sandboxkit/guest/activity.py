"""What counts as activity, and who is asked before the sandbox ends for lack of it.

Activity is a command that runs, a file operation, a connection through a tunnel or to a
declared port, and a `Hold`. A channel that was opened as `passive` is none: an agent's process
that waits for its next prompt, the gateway's own tunnels.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Protocol

from .channels import Channel, Client
from .loop import Loop

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTENS = "0A"


class Asks(Protocol):
    """Who puts a sandbox to sleep, for a host."""

    client: Any


class Hold(Channel):
    """A host's word that something is under way, for as long as the channel is open."""


class Sleeper(Channel):
    """A host that puts the sandbox to sleep, so that it does not end by itself when it is idle.

    `{"do": "ask"}` is answered by the seconds that are left until it is idle (null without an
    idle time-out); with 0 the host may begin, and other hosts can begin nothing new until the
    channel is closed. `{"do": "still"}` says whether nothing was begun since.
    """

    passive = True

    def __init__(self, client: Client, number: int, loop: Loop, activity: Activity) -> None:
        super().__init__(client, number, loop)
        self._activity = activity
        self.say_reply({})

    def call(self, value: Dict[str, Any]) -> None:
        if value.get("do") == "still":
            self.say_return({"still": self._activity.still(self)})
        else:
            self.say_return({"left_s": self._activity.ask(self)})

    def abort(self, reset: bool = False) -> None:
        super().abort(reset)
        self._activity.give_up(self)


class Activity:
    """When something was last done here.

    Args:
        busy: Whether something is being done now.
        limit: The idle time-out in seconds, as it is now.
    """

    def __init__(self, busy: Callable[[], bool], limit: Callable[[], Optional[float]]) -> None:
        self._busy, self._limit = busy, limit
        self.last = self._granted_at = time.monotonic()
        self._granted: Optional[Asks] = None

    def touch(self) -> None:
        """Something has begun or ended."""
        self.last = time.monotonic()

    def left(self) -> Optional[float]:
        """Seconds until it is idle; None is never."""
        limit = self._limit()
        if not limit:
            return None
        if self._busy():
            self.touch()
        return max(0.0, self.last + limit - time.monotonic())

    def admits(self, client: object) -> bool:
        """Whether a host may begin something; who puts it to sleep may."""
        return self._granted is None or self._granted.client is client

    def ask(self, sleeper: Asks) -> Optional[float]:
        if self._granted not in (None, sleeper):
            return self._limit()
        left = self.left()
        if left == 0:
            self._granted, self._granted_at = sleeper, time.monotonic()
        return left

    def still(self, sleeper: Asks) -> bool:
        return self._granted is sleeper and not self._busy() and self.last <= self._granted_at

    def woken_by(self, client: Client) -> None:
        """A host has connected. Who put it to sleep and is not there has not woken it."""
        sleeper = self._granted
        if sleeper is not None and sleeper.client is not client and sleeper.client.link is None:
            self.give_up(sleeper)

    def give_up(self, sleeper: Asks) -> None:
        if self._granted is sleeper:
            self._granted = None
            self.touch()


def connected(ports: Iterable[int]) -> bool:
    """Whether any of these TCP ports has a connection, or had one until just now."""
    wanted = {"%04X" % port for port in ports}
    for line in _sockets() if wanted else ():
        fields = line.split()
        ends = {address.rpartition(":")[2] for address in fields[1:3]}
        if fields[3] != _LISTENS and ends & wanted:
            return True
    return False


def _sockets() -> List[str]:
    lines: List[str] = []
    for table in _TABLES:
        try:
            with open(table, encoding="ascii") as file:
                lines += file.readlines()[1:]
        except OSError:
            continue
    return lines
