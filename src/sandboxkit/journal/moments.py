"""Moments that a moved clock does not change, as far as the machine has such a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time, on two clocks.

    Attributes:
        boot: Which start of the machine the ticks belong to; empty where that is not known.
        ticks: Seconds since then, sleep included.
        wall: Seconds since 1970, by the clock that can be moved.
    """

    boot: str
    ticks: float
    wall: float

    def after(self, seconds: float) -> Moment:
        """The moment so much later."""
        return Moment(self.boot, self.ticks + seconds, self.wall + seconds)

    def until(self, other: Moment) -> float:
        """Seconds from this moment to the other; negative if that is past.

        The clock that can be moved counts only where the machine was started anew.
        """
        if self.boot and self.boot == other.boot:
            return other.ticks - self.ticks
        return other.wall - self.wall


def now() -> Moment:
    """This moment. Reads a file, once: not for an event loop."""
    return Moment(boot(), _ticks(), time.time())


@cache
def boot() -> str:
    """What tells this start of the machine from others; empty where there is no such thing."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _ticks() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
