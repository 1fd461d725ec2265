"""Agents: what works in a sandbox, behind one small protocol."""

from __future__ import annotations

from sandboxkit.agents.base import (
    INTERFACE_VERSION,
    Agent,
    Conversation,
    Latency,
    RunResult,
    Usage,
)
from sandboxkit.agents.events import (
    Event,
    Finished,
    Message,
    NetworkRefusal,
    Notice,
    Retry,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
)

__all__ = [
    "INTERFACE_VERSION",
    "Agent",
    "Conversation",
    "Event",
    "Finished",
    "Latency",
    "Message",
    "NetworkRefusal",
    "Notice",
    "Retry",
    "RunResult",
    "TextDelta",
    "ThinkingDelta",
    "ToolCall",
    "ToolResult",
    "Usage",
]
