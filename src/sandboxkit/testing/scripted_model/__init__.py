"""A model that says what a script tells it to, behind the real Messages API.

The real Claude Code CLI, the `anthropic` package and any other client can talk to it, so a
program that drives an agent is tested without an account, without cost and always alike.
"""

from __future__ import annotations

from sandboxkit.testing.scripted_model.model import END_OF_SCRIPT, HangUp, ScriptedModel
from sandboxkit.testing.scripted_model.request import (
    ModelRequest,
    ToolResult,
    claude_code_side_request,
)
from sandboxkit.testing.scripted_model.steps import Reply, call, fail, say, think

__all__ = [
    "END_OF_SCRIPT",
    "HangUp",
    "ModelRequest",
    "Reply",
    "ScriptedModel",
    "ToolResult",
    "call",
    "claude_code_side_request",
    "fail",
    "say",
    "think",
]
