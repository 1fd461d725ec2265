"""The agents by name: entry points of the group `sandboxkit.agents`, or registered at run time."""

from __future__ import annotations

from sandboxkit.agents.base import INTERFACE_VERSION, Agent
from sandboxkit.providers.registry import Registry

agents: Registry[Agent] = Registry(
    "sandboxkit.agents",
    "agent",
    Agent,  # type: ignore[type-abstract]
    INTERFACE_VERSION,
)
"""The agents."""
