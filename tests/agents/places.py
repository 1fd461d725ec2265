"""The same conversation with a CLI in a sandbox and with a local one."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    Message,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    Transport,
)

from sandboxkit.agents.claude_code import SandboxTransport
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import ScriptedModel


class Place(ABC):
    """Where the CLI runs."""

    workdir: str

    @abstractmethod
    def transport(self, options: ClaudeAgentOptions) -> Transport | None: ...

    def env(self) -> dict[str, str]:
        return {}

    def options(self, model: ScriptedModel, /, **fields: Any) -> ClaudeAgentOptions:
        env = {
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": "a-key-of-the-host",
            **self.env(),
            **fields.pop("env", {}),
        }
        given: dict[str, Any] = {
            "permission_mode": "bypassPermissions",
            "setting_sources": [],
            **fields,
        }
        return ClaudeAgentOptions(env=env, **given)

    @contextlib.asynccontextmanager
    async def client(
        self, model: ScriptedModel, /, **fields: Any
    ) -> AsyncGenerator[ClaudeSDKClient]:
        """Start the model, and connect a client that has it."""
        async with model:
            options = self.options(model, **fields)
            client = ClaudeSDKClient(options, transport=self.transport(options))
            await client.connect()
            try:
                yield client
            finally:
                await client.disconnect()


class Inside(Place):
    """In a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.workdir = sandbox.workdir

    def transport(self, options: ClaudeAgentOptions) -> Transport:
        return SandboxTransport(self.sandbox, options)


class Local(Place):
    """On this machine, by the SDK's own transport."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.workdir = str(home)

    def env(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "CLAUDE_CONFIG_DIR": str(self.home / "claude"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",
        }

    def options(self, model: ScriptedModel, /, **fields: Any) -> ClaudeAgentOptions:
        return super().options(model, **{"cwd": self.workdir, **fields})

    def transport(self, options: ClaudeAgentOptions) -> None:
        return None


async def ask(client: ClaudeSDKClient, prompt: str) -> list[Message]:
    """The messages up to the result."""
    await client.query(prompt)
    return [message async for message in client.receive_response()]


def result_of(messages: list[Message]) -> ResultMessage:
    assert isinstance(messages[-1], ResultMessage)
    return messages[-1]


def trace(messages: list[Message]) -> list[str]:
    """What kinds of messages came, in order; pieces of a stream by their kind of event."""
    kinds: list[str] = []
    for message in messages:
        kind = type(message).__name__
        if isinstance(message, StreamEvent):
            kind = str(message.event["type"])
        elif isinstance(message, SystemMessage | ResultMessage):
            kind = f"{kind} {message.subtype}"
        kinds.append(kind)
    return kinds
