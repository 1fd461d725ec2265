"""Run an AI agent in a sandbox, on any backend, through one async API.

Example:
    import sandboxkit as sk

    async with sk.Session("docker") as session:
        result = await session.run("Make the tests in /work pass")

    async with sk.Sandbox.create("docker", memory_gib=2) as sandbox:
        done = await sandbox.exec(["python3", "--version"])
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandboxkit.agents.base import Agent, RunResult, Usage
    from sandboxkit.agents.claude_code import ClaudeCode, SandboxTransport
    from sandboxkit.agents.messages import Messages, Tool
    from sandboxkit.channel.adoption import ProcessInfo
    from sandboxkit.channel.execution import ExecResult
    from sandboxkit.channel.files import FileInfo, Files
    from sandboxkit.channel.process import Process
    from sandboxkit.channel.requests import PIPE
    from sandboxkit.channel.tunnels import Address, Ports
    from sandboxkit.errors import BudgetExceededError, SandboxError, StoreError
    from sandboxkit.gateway.decisions import Decision
    from sandboxkit.gateway.model.anthropic import Anthropic
    from sandboxkit.gateway.model.bedrock import Bedrock
    from sandboxkit.gateway.model.budget import Budget
    from sandboxkit.gateway.model.foundry import Foundry
    from sandboxkit.gateway.model.meter import Price
    from sandboxkit.gateway.model.vertex import Vertex
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.settings import Gateway
    from sandboxkit.health import Health, HealthPart
    from sandboxkit.machine import MachinePrice
    from sandboxkit.many import Mapped, MapProgress, Outcome, map  # noqa: A004
    from sandboxkit.network import Network
    from sandboxkit.pool import Pool
    from sandboxkit.progress import Progress
    from sandboxkit.providers.base import (
        Capabilities,
        SandboxHandle,
        SandboxInfo,
        SandboxProvider,
    )
    from sandboxkit.reaping import Reaped, Reaper, reap
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session import Session
    from sandboxkit.session.logs import LogLine
    from sandboxkit.session.sharing import SharedSandbox
    from sandboxkit.spec import Artifact, NetworkPolicy, Resources, SandboxSpec
    from sandboxkit.store import Store, Workspace

__version__ = "0.1.0"

# Loaded when first used, so that importing sandboxkit costs next to nothing.
_HOME = {
    "Agent": "agents.base",
    "ClaudeCode": "agents.claude_code",
    "Messages": "agents.messages",
    "Tool": "agents.messages",
    "SandboxTransport": "agents.claude_code",
    "Anthropic": "gateway.model.anthropic",
    "Bedrock": "gateway.model.bedrock",
    "Budget": "gateway.model.budget",
    "BudgetExceededError": "errors",
    "Foundry": "gateway.model.foundry",
    "LogLine": "session.logs",
    "MachinePrice": "machine",
    "Price": "gateway.model.meter",
    "Vertex": "gateway.model.vertex",
    "Usage": "agents.base",
    "Address": "channel.tunnels",
    "Artifact": "spec",
    "Decision": "gateway.decisions",
    "Gateway": "gateway.settings",
    "Health": "health",
    "HealthPart": "health",
    "Secret": "gateway.secrets",
    "Capabilities": "providers.base",
    "ExecResult": "channel.execution",
    "FileInfo": "channel.files",
    "Files": "channel.files",
    "MapProgress": "many",
    "Mapped": "many",
    "Outcome": "many",
    "map": "many",
    "Network": "network",
    "NetworkPolicy": "spec",
    "PIPE": "channel.requests",
    "Pool": "pool",
    "Ports": "channel.tunnels",
    "Process": "channel.process",
    "ProcessInfo": "channel.adoption",
    "Progress": "progress",
    "Reaped": "reaping",
    "Reaper": "reaping",
    "Resources": "spec",
    "RunResult": "agents.base",
    "Sandbox": "sandbox",
    "SandboxError": "errors",
    "SandboxHandle": "providers.base",
    "SandboxInfo": "providers.base",
    "SandboxProvider": "providers.base",
    "SandboxSpec": "spec",
    "Session": "session",
    "SharedSandbox": "session.sharing",
    "Store": "store",
    "StoreError": "errors",
    "Workspace": "store",
    "reap": "reaping",
}

_EXTRAS = {
    "claude_agent_sdk": "claude",
    "h11": "gateway",
    "httpx": "gateway",
    "obstore": "store",
    "sqlalchemy": "store",
    "zstandard": "store",
}

__all__ = [
    "PIPE",
    "Address",
    "Agent",
    "Anthropic",
    "Artifact",
    "Bedrock",
    "Budget",
    "BudgetExceededError",
    "Capabilities",
    "ClaudeCode",
    "Decision",
    "ExecResult",
    "FileInfo",
    "Files",
    "Foundry",
    "Gateway",
    "Health",
    "HealthPart",
    "LogLine",
    "MachinePrice",
    "MapProgress",
    "Mapped",
    "Messages",
    "Network",
    "NetworkPolicy",
    "Outcome",
    "Pool",
    "Ports",
    "Price",
    "Process",
    "ProcessInfo",
    "Progress",
    "Reaped",
    "Reaper",
    "Resources",
    "RunResult",
    "Sandbox",
    "SandboxError",
    "SandboxHandle",
    "SandboxInfo",
    "SandboxProvider",
    "SandboxSpec",
    "SandboxTransport",
    "Secret",
    "Session",
    "SharedSandbox",
    "Store",
    "StoreError",
    "Tool",
    "Usage",
    "Vertex",
    "Workspace",
    "map",
    "reap",
    "register",
]


def register(name: str, factory: Callable[[], SandboxProvider]) -> None:
    """Make a provider known for this process, by name; for notebooks and tests.

    Args:
        name: The name to choose it by.
        factory: Makes a provider object; the class itself will do.
    """
    from sandboxkit.providers.registry import providers

    providers.register(name, factory)


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        raise ImportError(
            f'sandboxkit.{name} needs another package: pip install "sandboxkit[{extra}]"'
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
