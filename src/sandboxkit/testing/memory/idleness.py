"""What counts as activity in memory, and who is asked before the sandbox sleeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sandboxkit.guest.activity import Activity
from sandboxkit.testing.memory.channels import Channel, Client, Json

_PASSIVE = ("extend", "health", "sleeper")


class Idleness:
    """As the guest has it, except that nothing ends here because it is idle.

    Args:
        channels: The channels of all hosts, and the detached programs.
        limit: The idle time-out in seconds.
    """

    def __init__(
        self, channels: Callable[[], Iterable[Channel]], limit: Callable[[], float | None]
    ) -> None:
        self._channels = channels
        self._passive: set[Channel] = set()
        self.activity = Activity(self._busy, limit)

    def began(self, channel: Channel, request: Json) -> None:
        """A channel was opened."""
        if request.get("passive") or request["op"] in _PASSIVE:
            self._passive.add(channel)
        elif request["op"] != "adopt":
            self.activity.touch()

    def ended(self, channel: Channel) -> None:
        """It was closed."""
        if channel in self._passive:
            self._passive.discard(channel)
        else:
            self.activity.touch()
        if isinstance(channel, Sleeper):
            self.activity.give_up(channel)

    def _busy(self) -> bool:
        return any(each.alive and each not in self._passive for each in self._channels())


class Hold(Channel):
    """See `sandboxkit.guest.activity.Hold`."""

    takes_input = False


class Sleeper(Channel):
    """See `sandboxkit.guest.activity.Sleeper`."""

    takes_input = False

    def __init__(self, client: Client, number: int, activity: Activity) -> None:
        super().__init__(client, number)
        self._activity = activity
        self.say_reply({})

    def call(self, value: Json) -> None:
        """Answer."""
        if value.get("do") == "still":
            self.say_return({"still": self._activity.still(self)})
        else:
            self.say_return({"left_s": self._activity.ask(self)})
