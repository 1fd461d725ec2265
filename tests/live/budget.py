"""What a live run may cost at the most."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from sandboxkit.providers.base import SandboxHandle, SandboxProvider
from sandboxkit.spec import SandboxSpec

SANDBOXES_VARIABLE = "SANDBOXKIT_LIVE_SANDBOXES"
SECONDS_VARIABLE = "SANDBOXKIT_LIVE_SECONDS"


class BudgetSpentError(Exception):
    """The run has had what it may have. Not an error of sandboxkit: no test expects it."""


@dataclass
class Budget:
    """A cap on the sandboxes that a run creates, and on the time that it takes.

    Attributes:
        sandboxes: How many may be asked for, whatever becomes of them.
        seconds: How long after the first of them another may be asked for.
        created: How many have been.
        spent: What was spent, in a sentence; empty while there is some left.
    """

    sandboxes: int = field(default_factory=lambda: int(os.environ.get(SANDBOXES_VARIABLE, "200")))
    seconds: float = field(default_factory=lambda: float(os.environ.get(SECONDS_VARIABLE, "2400")))
    created: int = 0
    spent: str = ""
    _began: float | None = None

    def take(self) -> None:
        """Count one more sandbox.

        Raises:
            BudgetSpentError: It may not be created.
        """
        if self._began is None:
            self._began = time.monotonic()
        if self.created >= self.sandboxes:
            self.spent = f"{SANDBOXES_VARIABLE}={self.sandboxes} sandboxes were created"
        self.check_time()
        self.created += 1

    def check_time(self) -> None:
        """See that there is time left.

        Raises:
            BudgetSpentError: There is not, or the sandboxes are spent.
        """
        if self._began is not None and time.monotonic() - self._began > self.seconds:
            self.spent = f"{SECONDS_VARIABLE}={self.seconds:g} seconds have passed"
        if self.spent:
            raise BudgetSpentError(f"the budget of the live tests is spent: {self.spent}")


def budgeted(plugin: type[SandboxProvider], budget: Budget) -> SandboxProvider:
    """A provider whose every creation is counted."""

    class Budgeted(plugin):  # type: ignore[misc, valid-type]
        async def create(self, spec: SandboxSpec) -> SandboxHandle:
            budget.take()
            handle: SandboxHandle = await super().create(spec)
            return handle

    provider: SandboxProvider = Budgeted()  # pyright: ignore[reportAbstractUsage]
    return provider
