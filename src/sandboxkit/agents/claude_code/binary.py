"""The CLI that comes with `claude-agent-sdk`, as a file that a sandbox can have."""

from __future__ import annotations

import platform
import sys
from typing import Final

import anyio.to_thread

from sandboxkit.agents.claude_code import sdk
from sandboxkit.errors import AgentError
from sandboxkit.spec import Artifact

TARGET: Final = "/opt/sandboxkit/claude-code/claude"
"""Where the CLI is in a sandbox that was created with it."""

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


async def claude_code_artifact() -> Artifact:
    """The CLI on this machine, for `Sandbox.create(..., artifacts=[...])`.

    Raises:
        AgentError: This machine has no CLI that runs in a Linux sandbox. The message
            says what to do.
    """
    return await anyio.to_thread.run_sync(_find)


def _find() -> Artifact:
    libc = platform.libc_ver()[0] if sys.platform == "linux" else ""
    machine = _MACHINES.get(platform.machine().lower())
    if libc != "glibc" or machine is None:
        raise AgentError(
            "The Claude Code CLI that claude-agent-sdk brings to this machine "
            f"({platform.system()}, {libc or 'no glibc'}, {platform.machine()}) does not run in "
            "a Linux sandbox. Use an image that holds the CLI and name its path there: "
            "ClaudeAgentOptions(cli_path='/usr/local/bin/claude'); or run on a Linux host "
            "with glibc on x86-64 or ARM64.",
            code="no_cli",
        )
    if not sdk.BUNDLED_CLI.is_file():
        raise AgentError(
            f"The installed claude-agent-sdk {sdk.SDK_VERSION} came without its CLI: it was "
            "not installed from a wheel for this platform. Reinstall it: "
            "pip install --force-reinstall --only-binary :all: claude-agent-sdk",
            code="no_cli",
        )
    return Artifact(
        name="claude-code",
        version=sdk.BUNDLED_CLI_VERSION,
        platform=f"linux-{machine}",
        source=sdk.BUNDLED_CLI,
        target=TARGET,
    )
