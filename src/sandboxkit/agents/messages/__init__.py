"""The agent loop on the host, by the `anthropic` package; its tools work in the sandbox.

Needs the extra `anthropic`. `Messages` is the agent of a `Session`, `Tool` a tool of the
caller's own.
"""

from __future__ import annotations

from sandboxkit.agents.messages.agent import Messages
from sandboxkit.agents.messages.tools.tool import Tool

__all__ = ["Messages", "Tool"]
