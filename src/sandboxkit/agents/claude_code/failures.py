"""The SDK's errors as sandboxkit's, at one boundary."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

from claude_agent_sdk import ClaudeSDKError, ProcessError, ResultError

from sandboxkit.agents.claude_code.transport import OUT_OF_MEMORY
from sandboxkit.errors import AgentError, SandboxError


@contextlib.contextmanager
def as_sandbox_errors(stderr: Sequence[str] = ()) -> Generator[None]:
    """Let only `SandboxError`s out of the block.

    Args:
        stderr: The last lines of the CLI's stderr, for the message.
    """
    try:
        yield
    except SandboxError:
        raise
    except Exception as error:
        found = _underlying(error)
        if found is not None:
            raise found from error
        if isinstance(error, ProcessError):
            raise _ended(error, stderr) from error
        if isinstance(error, ClaudeSDKError):
            raise AgentError(str(error)) from error
        # The SDK raises a bare Exception where a control request fails or gets no answer.
        if type(error) is Exception:
            raise AgentError(f"Claude Code refused a request: {error}") from error
        raise


def _underlying(error: BaseException | None) -> SandboxError | None:
    """The failure of the sandbox that an error of the SDK goes back to."""
    while error is not None:
        if isinstance(error, SandboxError):
            return error
        error = error.__cause__
    return None


def _ended(error: ProcessError, stderr: Sequence[str]) -> AgentError:
    said = "\n".join(["", *stderr])
    if isinstance(error, ResultError):  # it has said what went wrong
        unknown = "No conversation found" in str(error)
        return AgentError(str(error), code="no_conversation" if unknown else "ended")
    reason = f"Claude Code ended with exit code {error.exit_code}."
    if error.stderr == OUT_OF_MEMORY:
        return AgentError(f"{reason} {OUT_OF_MEMORY}{said}", code="oom")
    return AgentError(f"{reason}{said}", code="ended")
