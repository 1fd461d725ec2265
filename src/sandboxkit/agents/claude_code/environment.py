"""The environment that the CLI gets in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from sandboxkit.agents.claude_code import sdk
from sandboxkit.agents.claude_code.model import CREDENTIALS

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions

_MCP_DEADLINE_MS: Final = "300000"

_DEFAULTS: Final[Mapping[str, str]] = {
    "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
    # The SDK's sign that a run is over.
    "CLAUDE_CODE_SDK_READS_SESSION_STATE": "1",
    # Where it is root, it refuses `bypassPermissions` without this.
    "IS_SANDBOX": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    # Otherwise the first request to the model may go out before the tools are there.
    "MCP_CONNECTION_NONBLOCKING": "false",
    "MCP_TIMEOUT": _MCP_DEADLINE_MS,
    "MCP_CONNECT_TIMEOUT_MS": _MCP_DEADLINE_MS,
}


def cli_environment(
    options: ClaudeAgentOptions, *, config_dir: str, cwd: str, model: Mapping[str, str]
) -> dict[str, str]:
    """All variables of the CLI, beyond those of the sandbox.

    `options.env` wins over our defaults, and loses against what the SDK's own transport
    does not let it set. Nothing of this machine's environment goes in, and no credential.

    Args:
        options: The caller's options.
        config_dir: The agent's own `CLAUDE_CONFIG_DIR` in the sandbox.
        cwd: The working directory in the sandbox.
        model: How the CLI reaches the model.
    """
    env = {
        **_DEFAULTS,
        **_trace_context(),
        **{name: value for name, value in options.env.items() if name not in CREDENTIALS},
        **model,
        "CLAUDE_CONFIG_DIR": config_dir,
        "CLAUDE_AGENT_SDK_VERSION": sdk.SDK_VERSION,
        "PWD": cwd,
    }
    if options.client_app is not None:
        env["CLAUDE_AGENT_SDK_CLIENT_APP"] = options.client_app
    if options.enable_file_checkpointing:
        env["CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING"] = "true"
    return env


def _trace_context() -> dict[str, str]:
    """The W3C trace context of the caller's span, where OpenTelemetry is installed."""
    try:
        from opentelemetry import propagate  # optional
    except ImportError:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    if "traceparent" not in carrier:
        return {}
    return {name.upper(): value for name, value in carrier.items()}
