"""What the API says when it does not answer, in words for a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BUDGET: Final = "budget_exceeded"
"""The kind of a request that the gateway has refused, because a budget is spent."""

_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_PASSING: Final = frozenset(
    {"api_error", "connection_error", "overloaded_error", "rate_limit_error", "timeout_error"}
)
_INVALID: Final = frozenset({"invalid_request_error", "request_too_large"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Attributes:
        kind: The API's own word, such as `overloaded_error`; `connection_error` where
            there was no answer at all.
        status: The HTTP status; None where the answer had begun, or there was none.
        message: What the service says.
    """

    kind: str
    status: int | None
    message: str

    def __str__(self) -> str:
        status = "" if self.status is None else f" ({self.status})"
        return f"{self.kind}{status}: {self.message}"

    @property
    def passes(self) -> bool:
        """Whether the same request may be answered later."""
        return self.kind in _PASSING

    @property
    def is_of_the_request(self) -> bool:
        """Whether the request itself is refused, and would be again: too long, for instance."""
        return self.kind in _INVALID


class BrokenOffError(Exception):
    """The stream ended without the end of the message."""


class UnreadableError(Exception):
    """The stream is none of the Messages API, or a call in it is not JSON."""


def failure_of(error: BaseException) -> Failure | None:
    """The failure that an exception of the `anthropic` package stands for; None if it is none."""
    import anthropic

    if isinstance(error, BrokenOffError):
        return Failure("connection_error", None, "The answer broke off.")
    if isinstance(error, UnreadableError):
        return Failure("api_error", None, f"The answer cannot be read: {error}")
    if isinstance(error, anthropic.APIStatusError):
        status = error.status_code if error.status_code >= 400 else None
        kind = str(error.type or _KINDS.get(status or 0, "api_error"))
        return Failure(kind, status, error.api_message or _short(error))
    if isinstance(error, anthropic.APIError):
        return Failure("connection_error", None, _short(error))
    # The transport's own, in mid-stream; and an answer that is none.
    module = type(error).__module__.partition(".")[0]
    if module in {"httpx", "httpx2", "httpcore", "httpcore2"}:
        return Failure("connection_error", None, f"The answer broke off ({type(error).__name__}).")
    return None


def _short(error: BaseException) -> str:
    return str(error)[:500] or type(error).__name__
