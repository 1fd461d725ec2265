"""The one place where errors of the Daytona SDK, of aiohttp and of sockets become sandboxkit's."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ConnectionLostError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.providers.failing import errors_as

PROVIDER: Final = "daytona"
_SAID: Final = 500  # characters of the service's own words in a message
_NOT_THERE: Final = ("exceeds maximum", "cannot be overridden", "not supported")
_FULL: Final = ("quota", "limit exceeded", "no available runner", "capacity", "concurrent")

_PASSING: Final = (CapacityError, OperationTimeoutError, ProviderUnavailableError)
_BY_STATUS: Final[Mapping[int, tuple[type[SandboxError], str]]] = {
    401: (AuthenticationError, "Daytona refused the credentials; set DAYTONA_API_KEY anew"),
    403: (AuthenticationError, "The credentials do not allow this at Daytona"),
    404: (SandboxNotFoundError, "Daytona knows no such thing"),
    408: (OperationTimeoutError, "Daytona did not finish in time"),
    410: (ConnectionLostError, "The program has ended"),
    429: (CapacityError, "Daytona limits the rate"),
}


def map_errors(op: str, url: str, sandbox_id: str | None = None) -> AbstractContextManager[None]:
    """Turn whatever fails in the block into a `SandboxError`, with its cause kept.

    Args:
        op: What is being done, such as `create`.
        url: The service's address, for messages.
        sandbox_id: The sandbox, if there is one.
    """
    return errors_as(lambda error: _translate(error, op, url, sandbox_id))


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status with which the service refused something, if it did."""
    if isinstance(error, SandboxError):
        error = error.__cause__
    # the SDK's errors say `status_code`, a refused websocket says `status`
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _translate(error: Exception, op: str, url: str, sandbox_id: str | None) -> SandboxError:
    said = str(getattr(error, "message", "") or error).strip()[:_SAID].rstrip(".")
    status = status_of(error)
    if status is None:
        kind, message = _without_an_answer(error, op, url, said or repr(error))
    else:
        kind, message = _refusal(status, said)
    retryable = issubclass(kind, _PASSING) and (kind is not CapacityError or status in {None, 429})
    made = kind(message, op=op, provider=PROVIDER, sandbox_id=sandbox_id, retryable=retryable)
    if isinstance(made, CapacityError):
        made.retry_after_s = _retry_after(getattr(error, "headers", None) or {})
    return made


def _without_an_answer(
    error: Exception, op: str, url: str, said: str
) -> tuple[type[SandboxError], str]:
    from aiohttp import ClientError
    from daytona import DaytonaConnectionError, DaytonaQueueTimeoutError, DaytonaTimeoutError

    if isinstance(error, DaytonaQueueTimeoutError):
        return CapacityError, f"Daytona found no room in time: {said}."
    if isinstance(error, (TimeoutError, DaytonaTimeoutError)):
        advice = "Look at its status page, then try again."
        return OperationTimeoutError, f"Daytona at {url} did not finish `{op}` in time. {advice}"
    if isinstance(error, (DaytonaConnectionError, ClientError, OSError)):
        advice = "Check the network, the address (DAYTONA_API_URL) and its status page."
        return ProviderUnavailableError, f"Daytona does not answer at {url}: {said}. {advice}"
    return SandboxError, f"Daytona failed in `{op}`: {said}."


def _refusal(status: int, said: str) -> tuple[type[SandboxError], str]:
    """The error that fits an HTTP status and the service's words."""
    words = said.lower()
    if status in {400, 403} and any(word in words for word in _NOT_THERE):
        return UnsupportedError, f"Daytona cannot do this for this account: {said}."
    if status in {400, 402, 403, 409} and any(word in words for word in _FULL):
        return CapacityError, f"Daytona has no room for this account: {said}."
    if status >= 500:
        return ProviderUnavailableError, f"Daytona has a failure of its own: {said} ({status})."
    kind, what = _BY_STATUS.get(status, (SandboxError, "Daytona refused"))
    return kind, f"{what}: {said} (status {status})."


def _retry_after(headers: Mapping[str, object]) -> float | None:
    """Seconds; the header's name carries a suffix, such as `Retry-After-sandbox-create`."""
    waits: list[float] = []
    for name, value in headers.items():
        if name.lower().startswith("retry-after"):
            with contextlib.suppress(ValueError):  # a date: nobody has seen one here
                waits.append(float(str(value)))
    return max(waits, default=None)
