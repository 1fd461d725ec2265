"""What a service lets one account do: how fast it creates sandboxes, how many it has at once.

The limits are the account's, so what is counted is shared by the whole process, in
whichever threads and event loops its sandboxes are used. What other processes take with
the same account is not seen here: the service refuses, and the refusal is waited for.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

from sandboxkit.errors import CapacityError
from sandboxkit.places import Place, Places
from sandboxkit.providers.base import SandboxProvider

T = TypeVar("T")

WAIT_S: Final = 60.0
"""Seconds that a creation waits by default for a service that has no room."""

_ROUNDING: Final = 1e-6  # of a token: what is missing only by floating-point arithmetic
_JITTER: Final = 0.2  # of a pause: hosts that share an account do not all come back at once
_BACKOFF = wait_random_exponential(multiplier=1.0, max=20.0)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a creation may wait, in seconds.

    Attributes:
        room_s: For a place among the sandboxes alive, and after the service has refused.
        pace_s: For its turn, where this process creates faster than the service allows.
    """

    room_s: float = WAIT_S
    pace_s: float = WAIT_S

    def left(self, passed_s: float) -> Patience:
        """What is left of it."""
        return Patience(max(0.0, self.room_s - passed_s), max(0.0, self.pace_s - passed_s))


async def create_within_limits(
    provider: SandboxProvider, create: Callable[[], Awaitable[T]], patience: Patience
) -> tuple[T, Place]:
    """Create a sandbox when the limits of the provider's account allow it.

    Only a creation that was refused (`CapacityError`) is tried again: after the time that
    the service names, or else after growing pauses. One that may have happened never is.
    Cancelling gives back what it had taken.

    Args:
        provider: Its `account` says whose limits count, and its `Capabilities` which.
        create: Asks the service once.
        patience: How long to wait.

    Returns:
        What was created, and its place among the sandboxes alive: the caller releases it
        when the sandbox has ended. One that is dropped is released by itself.

    Raises:
        CapacityError: There was no room for so long; or there will not be.
    """
    account = account_of(provider)
    began = time.monotonic()
    place = await account.place(patience.room_s)
    try:
        made = await account.create(create, patience.left(time.monotonic() - began))
    except BaseException:
        place.release()
        raise
    return made, place


def account_of(provider: SandboxProvider) -> Account:
    """The one `Account` of this process for the provider's, with the limits that it claims."""
    can = provider.capabilities()
    with _lock:
        account = _accounts.setdefault((provider.name, provider.account()), Account(provider.name))
    account.allow(can.creates_per_s, can.concurrent)
    return account


class Bucket:
    """Tokens that come at a rate, and of which no more than a second's are kept."""

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._at = 0.0

    def take(self, now: float, per_s: float) -> float:
        """Take one.

        Returns:
            0, or the seconds until there is one, if it could not be taken.
        """
        most = max(1.0, per_s)
        had = most if self._tokens is None else self._tokens + (now - self._at) * per_s
        self._tokens, self._at = min(most, had), now
        if self._tokens < 1.0 - _ROUNDING:
            return (1.0 - self._tokens) / per_s
        self._tokens -= 1.0
        return 0.0

    def drain(self, until: float) -> None:
        """Have none until a moment to come."""
        self._tokens, self._at = 0.0, until


class Account:
    """One account at one service, as this process uses it.

    Args:
        provider: The provider's name, for messages.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._alive = Places(None)
        self._turns = Places(1)
        self._bucket = Bucket()
        self._per_s: float | None = None
        self._closed_until = 0.0  # on the monotonic clock: the service has asked to wait

    def allow(self, per_s: float | None, concurrent: int | None) -> None:
        """Set the limits; the last who says so is right."""
        self._per_s = per_s
        self._alive.resize(concurrent)

    async def place(self, wait_s: float) -> Place:
        """A place among the sandboxes alive, given in the order in which it was asked for.

        Raises:
            CapacityError: None became free within `wait_s`.
        """
        try:
            return await self._alive.take(wait_s)
        except TimeoutError:
            raise CapacityError(
                f"{self._provider} lets one account have {self._alive.count} sandboxes at once. "
                f"This process has that many, and none ended within {wait_s:g} s: close some, "
                "wait longer (wait_s=), or give the provider the limits of a larger plan",
                op="create",
                provider=self._provider,
                retryable=True,
            ) from None

    async def create(self, create: Callable[[], Awaitable[T]], patience: Patience) -> T:
        """Call `create` in its turn, and again where the service refuses for now."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_be_asked_again),
            wait=_pause,
            stop=stop_before_delay(patience.room_s),
            reraise=True,
        )
        began = time.monotonic()
        asked = 0

        async def once() -> T:
            nonlocal asked
            await self._turn(patience.left(time.monotonic() - began))
            asked += 1
            try:
                return await create()
            except CapacityError as error:
                self._hear(error)
                raise

        try:
            return await retrying(once)
        except CapacityError as error:
            if asked > 1:
                passed = time.monotonic() - began
                error.add_note(f"sandboxkit has asked {asked} times in {passed:.0f} s")
            raise

    def _hear(self, error: CapacityError) -> None:
        """A refusal that names a time is meant for the whole account."""
        if error.retry_after_s:
            until = time.monotonic() + error.retry_after_s
            self._closed_until = max(self._closed_until, until)
            self._bucket.drain(self._closed_until)

    async def _turn(self, patience: Patience) -> None:
        """Wait until the service may be asked for one more.

        Raises:
            CapacityError: That will be later than `patience` allows.
        """
        self._check_open()
        if self._per_s is None:
            return
        began = time.monotonic()
        try:
            turn = await self._turns.take(patience.pace_s)
        except TimeoutError:
            raise self._too_fast(None) from None
        try:
            while True:
                now = time.monotonic()
                self._check_open()
                pause = self._bucket.take(now, self._per_s)
                if not pause:
                    return
                if now - began + pause > patience.pace_s:
                    raise self._too_fast(pause)
                await anyio.sleep(_jittered(pause))
        finally:
            turn.release()

    def _check_open(self) -> None:
        closed = self._closed_until - time.monotonic()
        if closed > 0:
            raise CapacityError(
                f"{self._provider} has refused to create more sandboxes for now, and asked to "
                f"wait {closed:.1f} s longer",
                op="create",
                provider=self._provider,
                retryable=True,
                retry_after_s=closed,
            )

    def _too_fast(self, pause: float | None) -> CapacityError:
        return CapacityError(
            f"{self._provider} lets one account create {self._per_s:g} sandboxes a second, and "
            "this process has asked for more: wait longer (wait_s=), or give the provider the "
            "limits of a larger plan",
            op="create",
            provider=self._provider,
            retryable=True,
            retry_after_s=pause,
        )


def _may_be_asked_again(error: BaseException) -> bool:
    return isinstance(error, CapacityError) and error.retryable is not False


def _pause(state: RetryCallState) -> float:
    """Seconds until the next attempt."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, CapacityError) and error.retry_after_s is not None:
        return _jittered(error.retry_after_s)
    return _BACKOFF(state)


def _jittered(pause: float) -> float:
    return pause * random.uniform(1.0, 1.0 + _JITTER)  # noqa: S311 - spreads, hides nothing


_lock = threading.Lock()
_accounts: dict[tuple[str, str], Account] = {}
