"""The one seam to names that `claude-agent-sdk` does not promise to keep.

With a transport of one's own the SDK applies no option that it would turn into a flag
of the CLI: the transport must build the command line. That, and the names of the files
in which the CLI keeps its sessions, exist in the SDK as private functions only.
`tests/agents/test_sdk_seam.py` fails by name when a version changes them.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import claude_agent_sdk
from claude_agent_sdk import (
    CanUseToolShadowedWarning,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    Message,
    SessionStoreEntry,
)
from claude_agent_sdk._cli_version import __cli_version__
from claude_agent_sdk._internal.message_parser import parse_message
from claude_agent_sdk._internal.sessions import (
    _get_projects_dir,  # pyright: ignore[reportPrivateUsage]
    _sanitize_path,  # pyright: ignore[reportPrivateUsage]
    _split_agent_metadata,  # pyright: ignore[reportPrivateUsage]
)
from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport
from claude_agent_sdk.types import (
    _configure_can_use_tool,  # pyright: ignore[reportPrivateUsage]
)

SDK_VERSION = claude_agent_sdk.__version__
BUNDLED_CLI_VERSION = __cli_version__
BUNDLED_CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
DEFAULT_MAX_BUFFER_SIZE = 1024 * 1024
"""Characters of one message; the SDK's own default."""

__all__ = [
    "BUNDLED_CLI",
    "BUNDLED_CLI_VERSION",
    "DEFAULT_MAX_BUFFER_SIZE",
    "SDK_VERSION",
    "build_command",
    "project_key",
    "projects_dir",
    "received",
    "split_agent_metadata",
]


def build_command(options: ClaudeAgentOptions, cli_path: str) -> list[str]:
    """The command line that the SDK's own local transport would start.

    Raises:
        ValueError: The options contradict each other.
        TypeError: `skills` is of a wrong type.
    """
    with warnings.catch_warnings():
        # The SDK's client warns of a shadowed callback itself: once is enough.
        warnings.simplefilter("ignore", CanUseToolShadowedWarning)
        configured = _configure_can_use_tool(options)
    local = SubprocessCLITransport(_NoPrompt(), replace(configured, cli_path=cli_path))
    return local._build_command()  # pyright: ignore[reportPrivateUsage] # noqa: SLF001


class _NoPrompt:
    """The prompts of a transport that is never connected."""

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        raise NotImplementedError


def project_key(cwd: str) -> str:
    """The name under which the CLI keeps the sessions of a working directory.

    Args:
        cwd: The directory without symbolic links, as the CLI sees it. (The SDK's public
            function would follow the links of this machine, not those of the sandbox.)
    """
    return _sanitize_path(cwd)


def projects_dir(env: dict[str, str]) -> str:
    """Where the SDK believes the CLI's transcripts to be, given `ClaudeAgentOptions.env`."""
    return str(_get_projects_dir(env))


def split_agent_metadata(
    entries: list[SessionStoreEntry],
) -> tuple[dict[str, Any] | None, list[SessionStoreEntry]]:
    """What a store keeps of a sub-agent: its description, and the lines of its transcript."""
    return _split_agent_metadata(entries)


async def received(client: ClaudeSDKClient) -> AsyncIterator[tuple[dict[str, Any], Message]]:
    """What the client's `receive_messages` gives, each with what the transport has given."""
    query = client._query  # pyright: ignore[reportPrivateUsage] # noqa: SLF001
    if query is None:
        return
    async for data in query.receive_messages():
        message = parse_message(data)
        if message is not None:
            yield data, message
