"""The real Claude Code CLI inside a sandbox, driven live from the host.

Needs the extra `claude`. `ClaudeCode` is the agent of a `Session`; `SandboxTransport`
puts an application that uses `claude-agent-sdk` itself into a sandbox.
"""

from __future__ import annotations

from sandboxkit.agents.claude_code.agent import ClaudeCode
from sandboxkit.agents.claude_code.binary import claude_code_artifact
from sandboxkit.agents.claude_code.transport import SandboxTransport

__all__ = ["ClaudeCode", "SandboxTransport", "claude_code_artifact"]
