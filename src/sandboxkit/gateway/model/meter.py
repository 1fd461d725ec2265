"""What was asked of models, what it cost and how long it took: facts, taken on the host."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final, Self

from sandboxkit.errors import BudgetExceededError
from sandboxkit.listeners import Listeners
from sandboxkit.usage import Usage

log = logging.getLogger(__name__)

_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens of each kind.

    Attributes:
        input_usd: Tokens read.
        output_usd: Tokens written.
        cache_read_usd: Tokens read from the cache; None is a tenth of `input_usd`, as at
            Anthropic (docs.anthropic.com, "Prompt caching", 2025-11).
        cache_creation_usd: Tokens written to it; None is 1.25 times `input_usd`, likewise.
        cache_creation_1h_usd: Those that it keeps for an hour; None is twice `input_usd`,
            likewise.
    """

    input_usd: float
    output_usd: float
    cache_read_usd: float | None = None
    cache_creation_usd: float | None = None
    cache_creation_1h_usd: float | None = None

    def of(self, usage: Usage) -> float:
        """What so many tokens cost."""
        read, creation = self.cache_read_usd, self.cache_creation_usd
        read = self.input_usd * 0.1 if read is None else read
        creation = self.input_usd * 1.25 if creation is None else creation
        an_hour = self.cache_creation_1h_usd
        an_hour = self.input_usd * 2 if an_hour is None else an_hour
        return (
            usage.input_tokens * self.input_usd
            + usage.output_tokens * self.output_usd
            + usage.cache_read_tokens * read
            + (usage.cache_creation_tokens - usage.cache_creation_1h_tokens) * creation
            + usage.cache_creation_1h_tokens * an_hour
        ) / 1e6


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model.

    Attributes:
        at: When it came, aware, UTC.
        began: The same on the host's monotonic clock.
        model: The model that was asked for, as the service calls it; None where none was.
        status: HTTP's; 0 where the service gave no answer, or the client left before one.
        usage: Its tokens; None where the answer did not tell. What was written of an answer
            that is not `complete` is estimated.
        cost_usd: At the known price; None where tokens or price are not known.
        queued_s: Seconds that it waited for room in a budget; the others count from then.
        first_byte_s: Seconds until the answer's head.
        first_token_s: Seconds until its first token.
        total_s: Seconds until its end.
        complete: Whether the whole answer passed.
        refused: Why it did not leave the host; None where it did.
        over_budget: The same, where it was a budget.
    """

    at: datetime
    began: float
    model: str | None
    status: int
    usage: Usage | None
    cost_usd: float | None
    queued_s: float
    first_byte_s: float | None
    first_token_s: float | None
    total_s: float
    complete: bool
    refused: str | None = None
    over_budget: BudgetExceededError | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Sum:
    """Several calls together.

    Attributes:
        requests: How many went out.
        usage: Their tokens.
        known_usd: What is known of their cost.
        unpriced: How many have tokens without a known price; `known_usd` is then a lower bound.
        failed: How many were answered with an error, or not at all; Claude Code asks again.
    """

    requests: int = 0
    usage: Usage = field(default_factory=Usage)
    known_usd: float = 0.0
    unpriced: int = 0
    failed: int = 0

    @property
    def cost_usd(self) -> float | None:
        """Their cost; None where the price of any is not known."""
        return None if self.unpriced else self.known_usd

    def __sub__(self, other: Sum) -> Sum:
        return Sum(
            self.requests - other.requests,
            self.usage - other.usage,
            self.known_usd - other.known_usd,
            self.unpriced - other.unpriced,
            self.failed - other.failed,
        )

    def plus(self, call: ModelCall) -> Sum:
        """With one more."""
        if call.refused is not None:
            return self
        unpriced = call.usage is not None and call.cost_usd is None
        return Sum(
            self.requests + 1,
            self.usage + (call.usage or Usage()),
            self.known_usd + (call.cost_usd or 0.0),
            self.unpriced + unpriced,
            self.failed + (call.status >= 400 or call.status == 0),
        )


class Calls:
    """The calls of a meter, for `async for`, in the loop that the session runs on."""

    def __init__(self) -> None:
        self._waiting: deque[ModelCall] = deque(maxlen=_KEPT)
        self._changed = asyncio.Event()
        self._closed = False
        self.unfollow: Callable[[], None] = lambda: None

    def put(self, call: ModelCall) -> None:
        """One more."""
        self._waiting.append(call)
        self._changed.set()

    def close(self) -> None:
        """There will be no more: what waits can still be read."""
        self._closed = True
        self.unfollow()
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelCall:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()


class Meter:
    """Keeps the account of one session.

    Args:
        prices: The user's own prices, by the name of the model as the service calls it, or by
            a pattern such as `*haiku*`; the first that fits wins, also over `genai-prices`.

    Attributes:
        calls: The last 10,000, oldest first.
        total: All of them.
        by_model: The same, by model.
    """

    def __init__(self, prices: Mapping[str, Price] | None = None) -> None:
        self._prices = dict(prices or {})
        self._listeners = Listeners[ModelCall]("session.meter")
        self._followers: set[Calls] = set()
        self._closed = False
        self.calls: deque[ModelCall] = deque(maxlen=_KEPT)
        self.total = Sum()
        self.by_model: dict[str, Sum] = {}

    def listen(self, listener: Callable[[ModelCall], None]) -> Callable[[], None]:
        """Call `listener` with each call that has ended; the result stops that."""
        return self._listeners.add(listener)

    def follow(self) -> Calls:
        """The calls from now on, each when it has ended: `async for call in meter.follow()`.

        It ends with the session. Of a reader who is more than 10,000 calls behind, the
        oldest are dropped; nobody waits for it.
        """
        calls = Calls()
        if self._closed:
            calls.close()
            return calls
        self._followers.add(calls)
        calls.unfollow = lambda: self._followers.discard(calls)
        return calls

    def close(self) -> None:
        """There will be no more: who follows comes to the end."""
        self._closed = True
        for follower in list(self._followers):
            follower.close()

    def add(self, call: ModelCall) -> None:
        """Take one into the account."""
        self.calls.append(call)
        self.total = self.total.plus(call)
        if call.model is not None:
            self.by_model[call.model] = self.by_model.get(call.model, Sum()).plus(call)
        for follower in list(self._followers):
            follower.put(call)
        self._listeners.tell(call)

    def cost(self, model: str | None, provider: str, usage: Usage) -> float | None:
        """What so many tokens of a model cost; None where its price is not known."""
        if model is None:
            return None
        for pattern, own in self._prices.items():
            if fnmatchcase(model, pattern):
                return own.of(usage)
        from genai_prices import Usage as Counted
        from genai_prices import calc_price

        cached = usage.cache_read_tokens + usage.cache_creation_tokens
        counted = Counted(
            input_tokens=usage.input_tokens + cached,  # there, the cache's are part of them
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_creation_tokens,
            cache_write_1h_tokens=usage.cache_creation_1h_tokens,
            output_tokens=usage.output_tokens,
        )
        try:
            return float(calc_price(counted, model_ref=model, provider_id=provider).total_price)
        except LookupError:
            return None
