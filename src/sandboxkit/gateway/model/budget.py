"""What may be spent: refused on the host, where the agent cannot reach."""

from __future__ import annotations

import threading
import time
from typing import Final

from sandboxkit.errors import InvalidSpecError, SandboxError

_KINDS: Final = ("usd", "tokens", "requests", "wall_s")


class BudgetExceeded(SandboxError):
    """A limit is reached. The session can go on once it is raised: `budget.allow(usd=...)`."""

    default_code = "budget"


class Budget:
    """Limits for one session, or for several that share it. Any thread may use it.

    A request is refused once a limit is reached: what one request costs is known when it
    has ended, so the last one may pass the limit. Requests are counted when they begin.

    Args:
        usd: Dollars, at the prices that the meter uses. A model without a known price is
            refused while this limit stands.
        tokens: Tokens read and written, the cache's included.
        requests: Requests to the model.
        wall_s: Seconds from the first request on.

    Raises:
        InvalidSpecError: A limit is not a number, or is negative.
    """

    def __init__(
        self,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        requests: int | None = None,
        wall_s: float | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._limits: dict[str, float | None] = dict.fromkeys(_KINDS)
        self._spent: dict[str, float] = dict.fromkeys(_KINDS, 0.0)
        self._began: float | None = None
        self.allow(usd=usd, tokens=tokens, requests=requests, wall_s=wall_s)

    def __repr__(self) -> str:
        spent = self.spent
        parts = [
            f"{name}={spent[name]:g}/{limit:g}"
            for name, limit in self._limits.items()
            if limit is not None
        ]
        return f"<Budget {' '.join(parts) or 'without a limit'}>"

    def allow(self, **limits: float | None) -> None:
        """Set new limits, in all: those not named stay, None takes one away."""
        for name, limit in limits.items():
            if name not in _KINDS:
                raise InvalidSpecError(f"a budget has {', '.join(_KINDS)}, not {name!r}")
            if limit is not None and not 0 <= limit < float("inf"):
                raise InvalidSpecError(f"{name} must be 0 or more, not {limit!r}")
        with self._lock:
            self._limits.update(limits)

    @property
    def spent(self) -> dict[str, float]:
        """What has been spent, by the names of the limits."""
        with self._lock:
            wall = 0.0 if self._began is None else time.monotonic() - self._began
            return {**self._spent, "wall_s": wall}

    def begin(self, *, priced: bool) -> None:
        """Count a request that is about to go out.

        Args:
            priced: Whether its model has a known price.

        Raises:
            BudgetExceeded: It must not.
        """
        with self._lock:
            self._began = time.monotonic() if self._began is None else self._began
            now = {**self._spent, "wall_s": time.monotonic() - self._began}
            for name, limit in self._limits.items():
                if limit is not None and now[name] >= limit:
                    raise BudgetExceeded(
                        f"the budget of {limit:g} {name} is spent ({now[name]:g})", retryable=False
                    )
            if self._limits["usd"] is not None and not priced:
                raise BudgetExceeded(
                    "the price of this model is not known, so a budget in dollars cannot be kept: "
                    "give its price, or a budget in tokens",
                    code="no_price",
                    retryable=False,
                )
            self._spent["requests"] += 1

    def spend(self, *, usd: float, tokens: int) -> None:
        """Count what a request has cost."""
        with self._lock:
            self._spent["usd"] += usd
            self._spent["tokens"] += tokens
