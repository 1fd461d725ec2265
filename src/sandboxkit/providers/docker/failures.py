"""The one place where errors of docker-py, of sockets and of HTTP become sandboxkit's."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ImageError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxError,
    SandboxNotFoundError,
)
from sandboxkit.providers.docker.hijack import RefusedError
from sandboxkit.providers.failing import errors_as

PROVIDER: Final = "docker"
_FULL: Final = "no space left on device"
_NO_LOGIN: Final = ("unauthorized", "authentication required", "no basic auth credentials")


def map_errors(op: str, host: str, sandbox_id: str | None = None) -> AbstractContextManager[None]:
    """Turn whatever fails in the block into a `SandboxError`, with its cause kept.

    Args:
        op: What is being done, such as `create`.
        host: The engine's address, for messages.
        sandbox_id: The sandbox, if there is one.
    """
    return errors_as(lambda error: _translate(error, op, host, sandbox_id))


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status with which the engine refused something, if it did."""
    if isinstance(error, SandboxError):
        error = error.__cause__
    if isinstance(error, RefusedError):
        return error.status
    if not isinstance(error, OSError):  # as all of docker-py's are that carry a status
        return None
    from docker.errors import APIError

    return error.status_code if isinstance(error, APIError) else None


def refusal(status: int, said: str, op: str, sandbox_id: str | None = None) -> SandboxError:
    """The error that fits what the engine, or a registry behind it, refused."""
    said = said.strip().rstrip(".")
    kind, message = _classify(status, said, said.lower())
    retryable = kind is CapacityError and _FULL not in said.lower()  # which waiting changes not
    return kind(message, op=op, provider=PROVIDER, sandbox_id=sandbox_id, retryable=retryable)


def _classify(status: int, said: str, words: str) -> tuple[type[SandboxError], str]:
    if "toomanyrequests" in words or "rate limit" in words:
        return CapacityError, f"The registry limits the rate: {said}. Wait, or log in."
    if _FULL in words:
        advice = "`docker system df` shows what takes it"
        return CapacityError, f"The engine's disk is full: {said}. {advice}."
    if status in {401, 403} or any(word in words for word in _NO_LOGIN):
        return AuthenticationError, f"Access was refused: {said}. Log in with `docker login`."
    if status == 404 and "no such container" in words:
        return SandboxNotFoundError, f"There is no such sandbox: {said}."
    if status == 404 and "image" in words:
        return ImageError, f"The engine has no such image: {said}."
    return SandboxError, f"The Docker engine refused: {said} (status {status})."


def _translate(error: Exception, op: str, host: str, sandbox_id: str | None) -> SandboxError:
    from docker.errors import APIError, DockerException
    from requests.exceptions import Timeout

    if isinstance(error, APIError):
        return refusal(error.status_code or 0, str(error.explanation or error), op, sandbox_id)
    if isinstance(error, RefusedError):
        return refusal(error.status, error.message, op, sandbox_id)
    kind: type[SandboxError] = SandboxError
    message, retryable = f"The Docker provider failed in `{op}`: {error!r}", None
    if isinstance(error, (TimeoutError, Timeout)):
        kind, retryable = OperationTimeoutError, True
        message = (
            f"The Docker engine at {host} did not finish `{op}` in time. It may be overloaded: "
            "look at its log, then try again."
        )
    elif isinstance(error, (OSError, DockerException)):
        kind, retryable, reason = ProviderUnavailableError, True, _reason(error)
        message = f"No Docker engine answers at {host}: {reason}. {_advice(reason)}"
    return kind(message, op=op, provider=PROVIDER, sandbox_id=sandbox_id, retryable=retryable)


def _reason(error: BaseException) -> str:
    """The innermost cause: the rest is the chain of libraries above it."""
    while True:
        inner = error.__cause__ or error.__context__
        if not isinstance(inner, OSError):
            return str(error) or type(error).__name__
        error = inner


def _advice(reason: str) -> str:
    if "Permission denied" in reason:
        return "Add the user to the group `docker` and log in again, or run this as root."
    return (
        "Start it (`sudo systemctl start docker`, or Docker Desktop), or name another engine "
        "with DOCKER_HOST or `docker context use`."
    )
