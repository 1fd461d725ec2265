"""What may be spent: refused on the host, where the agent cannot reach."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandboxkit.errors import BudgetExceededError, InvalidSpecError

__all__ = ["Budget", "BudgetExceededError", "Hold", "Worst"]

_KINDS: Final = ("usd", "tokens", "requests", "wall_s")
_MEASURED: Final = ("usd", "tokens")  # known when a request has ended; the others before


@dataclass(frozen=True, slots=True)
class Worst:
    """The most that a request can spend, as far as can be told before it goes out.

    Attributes:
        usd: Dollars; None where its model has no known price.
        tokens: Tokens.
    """

    usd: float | None = 0.0
    tokens: int = 0


class Budget:
    """Limits for one session, or for several that share it. Any thread may use it.

    A request is refused once a limit is reached. What one request costs is known when it has
    ended, so the last one may pass the limit; but only one: while others are under way, a
    request goes out only if the most that all of them can cost still fits, and waits for
    them otherwise (`ModelCall.queued_s`). So a limit is passed by one request at the most,
    however many sessions share it. Requests are counted when they begin; `wall_s` refuses
    what begins later, and cuts nothing off.

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
        self._holds: set[Hold] = set()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
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
        """Set new limits, in all: those not named stay, None takes one away.

        A session whose request was refused goes on with its next prompt.
        """
        for name, limit in limits.items():
            if name not in _KINDS:
                raise InvalidSpecError(f"a budget has {', '.join(_KINDS)}, not {name!r}")
            if limit is not None and not 0 <= limit < float("inf"):
                raise InvalidSpecError(f"{name} must be 0 or more, not {limit!r}")
        with self._lock:
            self._limits.update(limits)
            self._wake()

    @property
    def limits(self) -> dict[str, float | None]:
        """The limits, by name; None is none."""
        with self._lock:
            return dict(self._limits)

    @property
    def spent(self) -> dict[str, float]:
        """What has been spent, by the names of the limits."""
        with self._lock:
            return self._now()

    @property
    def waiting(self) -> int:
        """How many requests wait for others to end."""
        with self._lock:
            return len(self._waiting)

    @property
    def has_usd(self) -> bool:
        """Whether dollars are limited, so that prices matter."""
        return self._limits["usd"] is not None

    async def hold(self, worst: Worst) -> Hold:
        """Let a request go out, when there is room for it. It must be ended.

        Args:
            worst: The most that it can spend.

        Raises:
            BudgetExceededError: A limit is reached.
        """
        while True:
            loop, freed = asyncio.get_running_loop(), asyncio.Event()
            with self._lock:
                if self._admits(worst):
                    hold = Hold(self, worst)
                    self._holds.add(hold)
                    self._spent["requests"] += 1
                    return hold
                self._waiting.append((loop, freed))
            try:
                await freed.wait()
            finally:
                with self._lock, contextlib.suppress(ValueError):
                    self._waiting.remove((loop, freed))

    def check(self) -> None:
        """Look whether anything may still be spent.

        Raises:
            BudgetExceededError: A limit is reached.
        """
        with self._lock:
            self._checked()

    def _checked(self) -> dict[str, float]:
        now = self._now()
        for name, limit in self._limits.items():
            if limit is not None and now[name] >= limit:
                raise _exceeded(name, limit, now)
        return now

    def _now(self) -> dict[str, float]:
        wall = 0.0 if self._began is None else time.monotonic() - self._began
        return {**self._spent, "wall_s": wall}

    def _admits(self, worst: Worst) -> bool:
        """Whether it may go out now; where not, it may when others have ended."""
        self._began = time.monotonic() if self._began is None else self._began
        now = self._checked()
        if self._limits["usd"] is not None and worst.usd is None:
            raise BudgetExceededError(
                "the price of this model is not known, so a budget in dollars cannot be kept: "
                "give its price, or a budget in tokens",
                limit="usd",
                allowed=self._limits["usd"],
                spent=now,
                code="no_price",
            )
        if not self._holds:
            return True
        for name in _MEASURED:
            limit = self._limits[name]
            most = _of(worst, name)
            held = sum(_of(hold.worst, name) for hold in self._holds)
            if limit is not None and most and now[name] + held + most > limit:
                return False
        return True

    def end(self, hold: Hold, *, usd: float, tokens: int) -> None:
        """A request has ended, and has cost this. A second call does nothing."""
        with self._lock:
            if hold in self._holds:
                self._holds.remove(hold)
                self._spent["usd"] += usd
                self._spent["tokens"] += tokens
                self._wake()

    def cancel(self, hold: Hold) -> None:
        """A request has not gone out."""
        with self._lock:
            if hold in self._holds:
                self._holds.remove(hold)
                self._spent["requests"] -= 1
                self._wake()

    def _wake(self) -> None:
        for loop, freed in self._waiting:
            with contextlib.suppress(RuntimeError):  # that loop is gone
                loop.call_soon_threadsafe(freed.set)


class Hold:
    """A request that counts against a budget until it has ended."""

    __slots__ = ("_budget", "worst")

    def __init__(self, budget: Budget, worst: Worst) -> None:
        self._budget = budget
        self.worst = worst

    def end(self, *, usd: float, tokens: int) -> None:
        """It has ended, and has cost this. A second call does nothing."""
        self._budget.end(self, usd=usd, tokens=tokens)

    def cancel(self) -> None:
        """It has not gone out."""
        self._budget.cancel(self)


def _of(worst: Worst, name: str) -> float:
    return float(worst.tokens if name == "tokens" else worst.usd or 0.0)


def _exceeded(name: str, limit: float, spent: Mapping[str, float]) -> BudgetExceededError:
    return BudgetExceededError(
        f"the budget of {limit:g} {name} is spent ({spent[name]:g})",
        limit=name,
        allowed=limit,
        spent=dict(spent),
    )
