"""The one place where errors of the `e2b` package and of HTTP become sandboxkit's."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager
from traceback import walk_tb
from typing import Final, NamedTuple

from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ExecStartError,
    ImageError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.providers.failing import errors_as

PROVIDER: Final = "e2b"
_LATE: Final = "E2B did not finish `{op}` in time. Try again; see status.e2b.dev."
_STATUS: Final = re.compile(r"(\d{3}): ")
_SIZE: Final = re.compile(r"\b(cpu|memory|timeout)\b", re.IGNORECASE)


class _Verdict(NamedTuple):
    kind: type[SandboxError]
    message: str
    retryable: bool | None = None
    code: str | None = None


def map_errors(
    op: str, sandbox_id: str | None = None, about: str = ""
) -> AbstractContextManager[None]:
    """Turn whatever fails in the block into a `SandboxError`, with its cause kept.

    Args:
        op: What is being done, such as `create`.
        sandbox_id: The sandbox, if there is one.
        about: The image or template, for messages.
    """
    return errors_as(lambda error: translated(error, op, sandbox_id, about))


def translated(
    error: Exception, op: str, sandbox_id: str | None = None, about: str = ""
) -> SandboxError:
    """The error of ours that fits; the arguments are those of `map_errors`."""
    verdict = _by_type(error, op) or _by_status(error, op, about)
    made = verdict.kind(
        verdict.message,
        code=verdict.code,
        op=op,
        provider=PROVIDER,
        sandbox_id=sandbox_id,
        retryable=verdict.retryable,
    )
    if isinstance(made, CapacityError):
        made.retry_after_s = retry_after(error)
    return made


def _by_type(error: Exception, op: str) -> _Verdict | None:
    """What the class of the error says."""
    import httpx
    from connectrpc.errors import ConnectError
    from e2b import exceptions as e2b

    said = str(error).strip() or type(error).__name__
    unreachable = (
        e2b.SandboxUnreachableException,
        httpx.TransportError,
        ConnectError,
        OSError,
        json.JSONDecodeError,  # a gateway's page where an answer was expected
    )
    verdict: _Verdict | None = None
    # In this order: some of these are subclasses of others.
    if isinstance(error, e2b.AuthenticationException):
        verdict = _refused(said, op)
    elif isinstance(error, e2b.RateLimitException):
        advice = "Wait, end other sandboxes, or raise the plan's limit."
        verdict = _Verdict(
            CapacityError, f"E2B limits this account: {said} {advice}", retryable=True
        )
    elif isinstance(error, e2b.ServiceBusyException):
        kind = ProviderUnavailableError if retry_after(error) is None else CapacityError
        verdict = _Verdict(kind, f"E2B is busy: {said}", retryable=True)
    elif isinstance(error, (e2b.SandboxNotFoundException, e2b.SandboxNotRunningException)):
        gone = SandboxNotFoundError if op == "attach" else SandboxDiedError
        verdict = _Verdict(gone, f"The sandbox is gone: {said}", retryable=False)
    elif isinstance(error, (TimeoutError, httpx.TimeoutException)):
        verdict = _Verdict(OperationTimeoutError, _LATE.format(op=op), retryable=True)
    elif isinstance(error, unreachable):
        verdict = _Verdict(
            ProviderUnavailableError, f"E2B does not answer `{op}`: {said}", retryable=True
        )
    elif isinstance(error, e2b.TimeoutException):
        verdict = _Verdict(OperationTimeoutError, _LATE.format(op=op), retryable=True)
    elif op == "spawn" and isinstance(error, e2b.SandboxException):
        message = f"The program could not be started: {said}"
        verdict = _Verdict(ExecStartError, message, code=_start_code(said))
    return verdict


def _refused(said: str, op: str) -> _Verdict:
    """A wrong key; or a user of the machine that there is not: E2B has one word for both."""
    if op == "spawn" and "user" in said:
        return _Verdict(
            ExecStartError, f"The program could not be started: {said}", code="bad_user"
        )
    advice = "Check E2B_API_KEY: https://e2b.dev/dashboard?tab=keys"
    return _Verdict(
        AuthenticationError, f"E2B refuses the key, or there is none. {advice}", retryable=False
    )


def _by_status(error: Exception, op: str, about: str) -> _Verdict:
    """What the API's status says."""
    from e2b import exceptions as e2b

    said = str(error).strip() or type(error).__name__
    status = status_of(error) or 0
    verdict = _Verdict(SandboxError, f"E2B failed in `{op}`: {said}")
    if status >= 500:
        verdict = _Verdict(
            ProviderUnavailableError, f"E2B failed in `{op}`: {said}", retryable=True
        )
    elif status == 400 and (op == "create" or (op == "build" and _SIZE.search(said))):
        verdict = _Verdict(
            UnsupportedError, f"E2B refuses what the spec asks for: {said}", retryable=False
        )
    elif op == "create" and status in {403, 404}:
        advice = "Check its name, and that it has been built."
        message = f"E2B cannot use the image {about}: {said}. {advice}"
        verdict = _Verdict(ImageError, message, retryable=False)
    elif isinstance(error, (e2b.BuildException, e2b.TemplateException)):
        verdict = _Verdict(ImageError, f"E2B cannot build the image {about}: {said}")
    elif status == 409:
        message = f"E2B refuses `{op}` in the state that the sandbox is in: {said}"
        verdict = _Verdict(SandboxError, message, retryable=True)
    return verdict


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status with which the API refused something, if it did."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status
    told = _STATUS.match(str(error))
    return int(told[1]) if told else None


def retry_after(error: Exception) -> float | None:
    """Seconds after which the API says to try again.

    The SDK keeps no header of a refusal. The response is still in the frame that raised:
    a look there, which finds nothing should the SDK change, is the one seam.
    """
    for frame, _line in walk_tb(error.__traceback__):
        headers = getattr(frame.f_locals.get("res"), "headers", None)
        said = headers.get("retry-after") if headers is not None else None
        if isinstance(said, str) and said.strip().isdecimal():
            return float(said)
    return None


def _start_code(said: str) -> str:
    words = said.lower()
    if "cwd" in words or "chdir" in words:
        return "bad_cwd"
    if "too long" in words:
        return "too_long"
    if "no such file" in words:
        return "not_found"
    return "not_executable" if "permission denied" in words else "failed"
