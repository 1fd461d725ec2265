"""When a pool asks its backend again, after it has failed."""

from __future__ import annotations

import random
import time
from typing import Final

from sandboxkit.errors import CapacityError, SandboxDiedError
from sandboxkit.failover import GOES_ON

_FIRST_S: Final = 0.5
_LONGEST_S: Final = 60.0
_JITTER: Final = 0.2


class BackOff:
    """Growing pauses, at least as long as the backend says.

    Attributes:
        failures: How often it has failed, in all.
        failure: Why there is a pause; None while all is well.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.failure: Exception | None = None
        self._in_a_row = 0
        self._until = 0.0

    @property
    def pause_s(self) -> float:
        """Seconds until the backend may be asked again; 0 is now."""
        return max(0.0, self._until - time.monotonic())

    @property
    def lasting(self) -> bool:
        """Whether the failure will not pass by itself: a wrong key, an image that is not there."""
        return self.failure is not None and not (
            isinstance(self.failure, (*GOES_ON, SandboxDiedError))
            or getattr(self.failure, "retryable", None)
        )

    def failed(self, error: Exception) -> None:
        """The backend has failed."""
        self.failures += 1
        self.failure = error
        if not self.pause_s:  # of those that were under way together, the first counts
            self._in_a_row += 1
        pause = min(_FIRST_S * 2.0 ** min(self._in_a_row - 1, 20), _LONGEST_S)
        if isinstance(error, CapacityError) and error.retry_after_s is not None:
            pause = max(pause, error.retry_after_s)
        pause *= random.uniform(1.0, 1.0 + _JITTER)  # noqa: S311 - spreads, hides nothing
        self._until = max(self._until, time.monotonic() + pause)

    def succeeded(self) -> None:
        """The backend has done what it was asked."""
        self.failure = None
        self._in_a_row, self._until = 0, 0.0
