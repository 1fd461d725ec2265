"""Every error that sandboxkit raises.

One root, `SandboxError`. A subclass is also the builtin that fits, so that code
which knows nothing of sandboxkit (`except TimeoutError`) does the right thing.
That a *command* failed is a result, not an error: see `ExecResult.check`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from sandboxkit.channel.execution import ExecResult


class SandboxError(Exception):
    """The root of all errors of sandboxkit.

    Args:
        message: What happened, on what, and what to do about it. Never a secret.
        code: A stable word for programs; each class has a default.
        op: The operation under way, such as `create` or `files.read`.
        provider: The name of the backend.
        sandbox_id: The backend's id of the sandbox.
        retryable: Whether the same call may succeed later; None where that is not known.
    """

    default_code: ClassVar[str] = "sandbox_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        op: str | None = None,
        provider: str | None = None,
        sandbox_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.op = op
        self.provider = provider
        self.sandbox_id = sandbox_id
        self.retryable = retryable

    def __str__(self) -> str:
        place = ", ".join(
            f"{name} {value}"
            for name, value in (("provider", self.provider), ("sandbox", self.sandbox_id))
            if value
        )
        return f"{self.message} [{place}]" if place else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.__dict__.copy()
        if isinstance(self, OSError):
            state["errno"] = self.errno  # kept outside of __dict__
        return _rebuild, (type(self), self.message, state)


def _rebuild(cls: type[SandboxError], message: str, state: dict[str, Any]) -> SandboxError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    for name, value in state.items():
        setattr(error, name, value)
    return error


# --- before anything is created -------------------------------------------------


class InvalidSpecError(SandboxError, ValueError):
    """A value given by the caller is wrong. Nothing was created."""

    default_code = "invalid_spec"


class UnsupportedError(SandboxError):
    """The backend cannot do exactly what was asked. Nothing was created or changed."""

    default_code = "unsupported"


class ProviderNotFoundError(SandboxError, LookupError):
    """No provider or agent of this name is known."""

    default_code = "provider_not_found"


class ProviderNotInstalledError(SandboxError, ImportError):
    """The provider is known, but the package that it needs is not installed."""

    default_code = "provider_not_installed"


class ProviderConflictError(SandboxError, RuntimeError):
    """Two installed packages claim the same provider name."""

    default_code = "provider_conflict"


class ProviderLoadError(SandboxError, ImportError):
    """A plugin is installed, but is broken or written for another interface version."""

    default_code = "provider_load"


# --- the backend ----------------------------------------------------------------


class ProviderUnavailableError(SandboxError, ConnectionError):
    """The backend does not answer: no engine, an outage, or it went away in the middle."""

    default_code = "provider_unavailable"


class AuthenticationError(SandboxError, PermissionError):
    """The backend or a registry refused the credentials, or there are none."""

    default_code = "authentication"


class CapacityError(SandboxError):
    """The backend has no room, or limits the rate at which it is asked.

    Args:
        message: As for `SandboxError`.
        retry_after_s: Seconds after which the backend says to try again; None if it
            does not say.
        **fields: As for `SandboxError`.
    """

    default_code = "capacity"

    def __init__(self, message: str, *, retry_after_s: float | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.retry_after_s = retry_after_s


class ImageError(SandboxError, LookupError):
    """The image does not exist, cannot be pulled or built, or cannot run."""

    default_code = "image"


class OperationTimeoutError(SandboxError, TimeoutError):
    """The backend did not finish within the deadline that sandboxkit sets for the call."""

    default_code = "operation_timeout"


# --- one sandbox ----------------------------------------------------------------


class SandboxNotFoundError(SandboxError, LookupError):
    """There is no sandbox of this id (any more), or it is not one of sandboxkit's."""

    default_code = "sandbox_not_found"


class SandboxDiedError(SandboxError):
    """The sandbox ended while it was in use.

    `code` says why where that is known: `oom`, `killed`, `expired`, `idle`, or `died`.
    """

    default_code = "died"


class SandboxClosedError(SandboxError, RuntimeError):
    """The sandbox or session was used after it had been closed."""

    default_code = "closed"


class AsleepError(SandboxClosedError):
    """A session has no machine now: `await session.wake()`, or its next prompt, makes one."""

    default_code = "asleep"


class InvalidStateError(SandboxError, RuntimeError):
    """A session cannot do this in the state that it is in."""

    default_code = "invalid_state"


class ConnectionLostError(SandboxError, ConnectionError):
    """The connection into the sandbox was lost and could not be taken up again.

    What was running may go on: its outcome is unknown, not failed.
    """

    default_code = "connection_lost"


class ProtocolError(SandboxError):
    """The guest sent something that the protocol does not allow."""

    default_code = "protocol"


# --- commands -------------------------------------------------------------------


class ExecStartError(SandboxError, OSError):
    """The command could not be started.

    `code` says why: `not_found`, `not_executable`, `bad_cwd`, `bad_user`, `too_long`,
    `no_resources` or `failed`.
    """

    default_code = "failed"


class ProcessHeldError(ExecStartError):
    """A detached process cannot be taken up: a host that lives has it.

    Attributes:
        connected: Whether that host has a connection now.
        silent_s: Seconds since it was last heard of.
    """

    default_code = "held"

    def __init__(
        self, message: str, *, connected: bool = True, silent_s: float = 0.0, **fields: Any
    ) -> None:
        super().__init__(message, **fields)
        self.connected, self.silent_s = connected, silent_s


class ProcessTakenError(SandboxError):
    """A detached process is another host's now: it was taken up while this one was away."""

    default_code = "taken"


class CommandFailedError(SandboxError):
    """A command ended with another exit code than 0, and the caller had asked to check.

    Attributes:
        result: The whole `ExecResult`.
    """

    default_code = "command_failed"

    def __init__(self, message: str, *, result: ExecResult, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.result = result


class ExecTimeoutError(CommandFailedError, TimeoutError):
    """A command was ended by its time-out, and the caller had asked to check."""

    default_code = "exec_timeout"


# --- files ----------------------------------------------------------------------


class FileError(SandboxError, OSError):
    """A file operation failed. `errno` is set where the sandbox's kernel gave one."""

    default_code = "file"


class PathNotFoundError(FileError, FileNotFoundError):
    """No such file or directory."""

    default_code = "not_found"


class PathExistsError(FileError, FileExistsError):
    """The path exists already."""

    default_code = "exists"


class PathIsDirectoryError(FileError, IsADirectoryError):
    """A directory stands where a file was wanted."""

    default_code = "is_directory"


class PathNotDirectoryError(FileError, NotADirectoryError):
    """A directory was wanted, and something else stands there."""

    default_code = "not_directory"


class PathPermissionError(FileError, PermissionError):
    """The sandbox's user may not do this there."""

    default_code = "permission"


class UnsafePathError(FileError, ValueError):
    """The path, or what stands there, would lead outside or is not a plain file."""

    default_code = "unsafe_path"


class SizeLimitError(FileError):
    """More bytes or files than the caller, or a default limit, allows."""

    default_code = "size_limit"


_BY_ERRNO: dict[int, type[FileError]] = {
    errno.ENOENT: PathNotFoundError,
    errno.EEXIST: PathExistsError,
    errno.ENOTEMPTY: PathExistsError,
    errno.EISDIR: PathIsDirectoryError,
    errno.ENOTDIR: PathNotDirectoryError,
    errno.EACCES: PathPermissionError,
    errno.EPERM: PathPermissionError,
    errno.EROFS: PathPermissionError,
    errno.ELOOP: UnsafePathError,
}


def file_error(number: int | None, message: str, **fields: Any) -> FileError:
    """The `FileError` that fits an errno of the sandbox's kernel.

    Args:
        number: The errno, or None if there was none.
        message: What happened, on which path.
        **fields: As for `SandboxError`.
    """
    error = _BY_ERRNO.get(number or 0, FileError)(message, **fields)
    error.errno = number
    return error


class StoreError(SandboxError):
    """What a session keeps outside its sandbox cannot be read or written.

    `code` says why where that is known: `no_session`, `session_exists`, `taken_over` (another
    host has resumed the session), `damaged` (what comes back is not what was stored),
    `newer_schema`, `unavailable`, or `store`.
    """

    default_code = "store"


class AgentError(SandboxError):
    """The agent could not be started, or ended without a result."""

    default_code = "agent"


class BudgetExceededError(AgentError):
    """A limit of a `Budget` is reached, and a request to the model was refused on the host.

    It is no outage: nothing is wrong with the service. The session can go on once the limit
    is raised: `budget.allow(usd=...)`.

    Args:
        message: As for `SandboxError`.
        limit: Which limit: `usd`, `tokens`, `requests` or `wall_s`.
        allowed: What it allows.
        spent: What has been spent, by the names of the limits.
        **fields: As for `SandboxError`. `code` is `budget`, or `no_price` where a budget in
            dollars cannot be kept because the model's price is not known.
    """

    default_code = "budget"

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        allowed: float | None,
        spent: dict[str, float],
        **fields: Any,
    ) -> None:
        fields.setdefault("retryable", False)
        super().__init__(message, **fields)
        self.limit = limit
        self.allowed = allowed
        self.spent = spent
