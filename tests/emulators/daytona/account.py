"""What one emulated account has, and how the service behaves towards it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from tests.emulators.daytona.events import Events
from tests.emulators.daytona.refusals import sandbox_not_found
from tests.emulators.faults import Faults
from tests.emulators.machines import Machines

if TYPE_CHECKING:
    from tests.emulators.daytona.box import Box
    from tests.emulators.daytona.snapshots import Snapshots

ORGANIZATION = "6d0e2c9a-8a55-4a63-9c8e-0c1a3f3e7b11"
REGIONS = frozenset({"us", "eu"})


@dataclass(slots=True)
class Settings:
    """What a test may change while the emulator runs.

    Attributes:
        minute_s: How long a minute of the service is, in seconds: of times to live,
            auto-stop and its like.
        log_tail_s: How long a log stream stays open after the end of its command.
        list_lag_s: How long a new sandbox is missing in listings.
        cpu_quota: The cores that all sandboxes together may have; None is no limit.
        tier: The account's; 1 and 2 may not set the network of a sandbox.
        says_no: Whether they are told so, or get what the tier has without a word.
        events: Whether states are pushed; without, the SDK asks once a second.
    """

    minute_s: float = 60.0
    log_tail_s: float = 1.0
    list_lag_s: float = 0.0
    cpu_quota: int | None = None
    tier: int = 3
    says_no: bool = True
    events: bool = True

    def reset(self) -> None:
        """As if nothing had been changed."""
        for each in fields(self):
            setattr(self, each.name, each.default)


class Account:
    """The state of the emulated service."""

    def __init__(self, machines: Machines, faults: Faults, settings: Settings) -> None:
        self.machines = machines
        self.faults = faults
        self.settings = settings
        self.url = ""
        self.boxes: dict[str, Box] = {}
        self.events = Events(settings)
        self.snapshots: Snapshots
        self._tasks: set[asyncio.Task[object]] = set()

    def spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Do something in the background, until `shut`."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def shut(self) -> None:
        """End what is done in the background."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def box(self, wanted: str) -> Box:
        """The sandbox of this id or name."""
        for box in self.boxes.values():
            if wanted in (box.id, box.name):
                return box
        raise sandbox_not_found(wanted)


def iso(seconds: float) -> str:
    """A time as the service writes it."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
