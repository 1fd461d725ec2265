"""What the machine costs: its time, at the backend's rate."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandboxkit.providers.info import SandboxInfo


@dataclass(frozen=True, slots=True)
class MachinePrice:
    """Dollars for a second of a running machine.

    Attributes:
        cpu_usd: Of one vCPU.
        memory_gib_usd: Of one GiB of memory.
        disk_gib_usd: Of one GiB of disk.
        free_disk_gib: As much disk costs nothing.
    """

    cpu_usd: float
    memory_gib_usd: float
    disk_gib_usd: float = 0.0
    free_disk_gib: float = 0.0

    def of(self, info: SandboxInfo, seconds: float) -> float | None:
        """What a machine costs for so long; None where its size is not known."""
        size = info.effective
        if size.cpu is None or size.memory_gib is None:
            return None
        disk = max(0.0, (size.disk_gib or 0.0) - self.free_disk_gib)
        second = (
            size.cpu * self.cpu_usd
            + size.memory_gib * self.memory_gib_usd
            + disk * self.disk_gib_usd
        )
        return second * seconds


@dataclass(frozen=True, slots=True)
class MachineUsage:
    """The machine of a session.

    Attributes:
        seconds: From the call that created it until it was destroyed, or now, without the time
            that it was asleep (`SandboxSpec.on_idle`). Of a sandbox of the caller's: since the
            session was entered.
        cost_usd: That at the backend's list price, without a plan's discount or its base
            fee, and without what a backend may take for a paused machine or an image; None
            where no price is known, as for a Docker engine of your own.
    """

    seconds: float
    cost_usd: float | None


class MachineClock:
    """Counts the seconds for which there is a machine."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    def start(self, began: float | None = None) -> None:
        """There is one from now on, or since `began` on the monotonic clock."""
        if self._since is None:
            self._since = time.monotonic() if began is None else began

    def stop(self) -> None:
        """There is none from now on."""
        self._before, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """For how long there was one."""
        return self._before + (0.0 if self._since is None else time.monotonic() - self._since)


@cache
def known_prices() -> Mapping[str, MachinePrice]:
    """List prices by the backend's name; `machine_prices.json` has their sources and dates."""
    text = resources.files("sandboxkit").joinpath("machine_prices.json").read_text("utf-8")
    return {
        name: MachinePrice(
            **{field: value for field, value in price.items() if field not in {"source", "date"}}
        )
        for name, price in json.loads(text)["prices"].items()
    }
