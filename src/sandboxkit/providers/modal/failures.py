"""The one place where errors of Modal's SDK, and of what is below it, become sandboxkit's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar, cast

from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.providers.failing import errors_as

T = TypeVar("T")

PROVIDER: Final = "modal"
_BELOW: Final = frozenset({"aiohttp", "grpclib", "h2", "ssl"})
_Row = tuple[tuple[type[Exception], ...], type[SandboxError], str]
_RETRYABLE: Final = frozenset({CapacityError, OperationTimeoutError, ProviderUnavailableError})
_REFUSED: Final = (
    "Modal refuses access: {what}. Set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET to a token of the "
    "workspace, or run `modal token new`."
)
_NO_ROOM: Final = "Modal has no room, or limits the rate, in `{op}`: {what}. Try again later."
_NOT_THERE: Final = "Modal does not have it (any more), in `{op}`: {what}."
_INVALID: Final = "Modal refuses the request `{op}`: {what}."
_TOO_LATE: Final = "Modal did not finish `{op}` in time. Try again; see status.modal.com."
_OUTAGE: Final = "Modal does not answer in `{op}`: {what}. Try again; see status.modal.com."


async def ask(
    op: str, call: Awaitable[T], *, deadline_s: float, sandbox_id: str | None = None
) -> T:
    """Await a call of the SDK, with our own deadline, and with its errors mapped.

    Raises:
        SandboxError: See `map_errors`.
    """
    with map_errors(op, sandbox_id):
        async with asyncio.timeout(deadline_s):
            return await call


def map_errors(op: str, sandbox_id: str | None = None) -> AbstractContextManager[None]:
    """Turn whatever fails in the block into a `SandboxError`, with its cause kept.

    Args:
        op: What is being done, such as `create`.
        sandbox_id: The sandbox, if there is one.
    """
    return errors_as(lambda error: _translate(error, op, sandbox_id))


def is_gone(error: SandboxError) -> bool:
    """Whether Modal said that there is no such thing, or that it has ended.

    It says either, for the same fact, depending on who is asked.
    """
    from modal.exception import ConflictError, NotFoundError

    return isinstance(error.__cause__, (ConflictError, NotFoundError))


def is_refused(error: SandboxError) -> bool:
    """Whether Modal said that the request makes no sense."""
    from modal.exception import InvalidError

    return isinstance(error.__cause__, InvalidError)


def _translate(error: Exception, op: str, sandbox_id: str | None) -> SandboxError:
    kind, message, fields = _classify(error, op)
    return kind(message, op=op, provider=PROVIDER, sandbox_id=sandbox_id, **fields)


def _classify(error: Exception, op: str) -> tuple[type[SandboxError], str, dict[str, Any]]:
    what = str(error).strip().rstrip(".") or type(error).__name__
    kind, message = next(row[1:] for row in _table() if isinstance(error, row[0]))
    if kind is SandboxError and type(error).__module__.partition(".")[0] in _BELOW:
        kind, message = ProviderUnavailableError, _OUTAGE
    fields: dict[str, Any] = {"retryable": kind in _RETRYABLE}
    if kind is CapacityError:
        fields["retry_after_s"] = _retry_after(error)
    return kind, message.format(op=op, what=what), fields


def _table() -> tuple[_Row, ...]:
    """What each error of the SDK means; the first row that fits counts."""
    from modal import exception as said

    outages = (
        *(said.ServiceError, said.InternalError, said.DataLossError, said.ConnectionError),
        *(said.ClientClosed, OSError),
    )
    return (
        ((said.AuthError, said.PermissionDeniedError), AuthenticationError, _REFUSED),
        ((said.ResourceExhaustedError,), CapacityError, _NO_ROOM),
        # A conflict is a kind of invalid request to the SDK: it must come first.
        ((said.ConflictError, said.NotFoundError), SandboxNotFoundError, _NOT_THERE),
        ((said.InvalidError,), UnsupportedError, _INVALID),
        ((TimeoutError, said.TimeoutError), OperationTimeoutError, _TOO_LATE),
        (outages, ProviderUnavailableError, _OUTAGE),
        ((Exception,), SandboxError, "The Modal provider failed in `{op}`: {what}."),
    )


def _retry_after(error: Exception) -> float | None:
    """When the server says to try again.

    The details are kept under a private name; the public one warns that it will go.
    """
    details = cast("list[object]", getattr(error, "_grpc_details", None) or [])
    for detail in details:
        seconds = getattr(detail, "retry_after_secs", None)
        if seconds is not None:
            return float(seconds)
    return None
