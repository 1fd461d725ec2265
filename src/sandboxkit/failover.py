"""One of several backends: the first that has room and answers.

What another backend would do just as badly is raised at once: a wrong or unsupported spec,
an image that does not exist, credentials that are refused, a package that is missing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from sandboxkit.admission import admit
from sandboxkit.errors import (
    CapacityError,
    ConnectionLostError,
    InvalidSpecError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxError,
)
from sandboxkit.lifecycle import choose
from sandboxkit.limits import Patience
from sandboxkit.progress import Listener, Progress, listening, report
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.spec import SandboxSpec

T = TypeVar("T")
OneProvider = str | SandboxProvider
Create = Callable[[OneProvider, SandboxSpec, Patience], Awaitable[T]]

log = logging.getLogger(__name__)

GOES_ON: Final = (
    CapacityError,
    ProviderUnavailableError,
    OperationTimeoutError,
    ConnectionLostError,
)
"""After these another backend is asked: no room, a limit of the rate, an outage."""

_PACE_S: Final = 5.0  # a rush of creations is spread this far before it spills over


async def create_on(
    chosen: OneProvider | Sequence[OneProvider],
    spec: SandboxSpec,
    create: Create[T],
    listener: Listener | None,
    *,
    wait_s: float,
) -> T:
    """Create on the chosen provider, or on the first of several that can.

    All are looked at before the first is asked, so that a fallback that could not take the
    spec is found today, and not in the outage. Where there is a next one, neither a
    refusal nor a free place is waited for.

    Args:
        chosen: Names or objects, in the order in which they are asked.
        spec: What is to be created.
        create: Creates on one, and leaves nothing behind if it fails.
        listener: Hears of the progress.
        wait_s: Seconds to wait for room on the last one.

    Raises:
        InvalidSpecError: There is no provider in the list, or `wait_s` is negative.
        SandboxError: The one error that is no reason to go on; or, where all had such a
            reason, `CapacityError` if there was no room on any, else
            `ProviderUnavailableError`, with the reason of each.
    """
    if not wait_s >= 0:
        raise InvalidSpecError(f"wait_s must be 0 or more seconds, not {wait_s!r}")
    several = [chosen] if isinstance(chosen, str | SandboxProvider) else list(chosen)
    if not several:
        raise InvalidSpecError("the list of providers is empty: name at least one")
    with listening(listener):
        if len(several) == 1:
            return await create(several[0], spec, Patience(wait_s, wait_s))
        for each in several:
            await _check(each, spec)
        return await _first(several, spec, create, wait_s)


async def _first(
    several: Sequence[OneProvider], spec: SandboxSpec, create: Create[T], wait_s: float
) -> T:
    reasons: list[tuple[str, SandboxError]] = []
    for left, each in zip(reversed(range(len(several))), several, strict=True):
        patience = Patience(0.0, min(_PACE_S, wait_s)) if left else Patience(wait_s, wait_s)
        try:
            return await create(each, spec, patience)
        except GOES_ON as error:
            reasons.append((_name(each), error))
            if left:
                _tell(_name(each), error)
        except SandboxError as error:
            for name, reason in reasons:
                error.add_note(f"asked before it: {name}: {reason.message} ({reason.code})")
            raise
    raise _all_failed(reasons) from reasons[-1][1]


async def _check(each: OneProvider, spec: SandboxSpec) -> None:
    """Raise now what would be raised when its turn has come."""
    async with contextlib.AsyncExitStack() as undo:
        provider, _ = await choose(each, undo)
        admit(spec, provider.capabilities(), provider.name)


def _tell(name: str, error: SandboxError) -> None:
    log.warning("no sandbox on %s (%s), going on to the next: %s", name, error.code, error)
    report(Progress(f"going on from {name}: {error.message}"))


def _all_failed(reasons: Sequence[tuple[str, SandboxError]]) -> SandboxError:
    said = "; ".join(f"{name}: {error.message} ({error.code})" for name, error in reasons)
    message = f"none of the {len(reasons)} providers could create a sandbox: {said}"
    refusals = [error for _, error in reasons if isinstance(error, CapacityError)]
    failed: SandboxError
    if len(refusals) == len(reasons):
        known = [error.retry_after_s for error in refusals if error.retry_after_s is not None]
        soonest = min(known, default=None)
        failed = CapacityError(message, op="create", retryable=True, retry_after_s=soonest)
    else:
        failed = ProviderUnavailableError(message, op="create", retryable=True)
    for name, error in reasons:
        for note in getattr(error, "__notes__", ()):
            failed.add_note(f"{name}: {note}")
    return failed


def _name(each: OneProvider) -> str:
    return each if isinstance(each, str) else each.name
