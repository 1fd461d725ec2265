"""Timing things fairly: warmed up, interleaved, medians."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds that something took, once for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """The 95th percentile."""
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        value: The figure, in `unit`.
        unit: Such as `ms` or `MB/s`.
        beside: What it is compared with.
        reference: The same figure of that.
        ratio: `value` over `reference`, where that makes sense.
        target: The target in words.
        met: Whether it is reached; None where there is none.
        p95: The 95th percentile, in `unit`.
    """

    what: str
    value: float
    unit: str
    beside: str = ""
    reference: float | None = None
    target: str = ""
    met: bool | None = None
    p95: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times the reference it is."""
        return self.value / self.reference if self.reference else None


async def interleaved(
    works: Mapping[str, Work], *, rounds: int, warm_up: int
) -> dict[str, Samples]:
    """Time each of `works` in turn, `rounds` times, so that all see the same machine."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warm_up + rounds):
        for name, work in works.items():
            began = time.perf_counter()
            await work()
            if turn >= warm_up:
                taken[name].append(time.perf_counter() - began)
    return {name: Samples(tuple(seconds)) for name, seconds in taken.items()}
