"""An agent that starts nothing, for what happens below it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import ClassVar

from sandboxkit.agents.base import Agent, Conversation, Latency, RunResult, Usage
from sandboxkit.agents.events import Event, Finished
from sandboxkit.errors import AgentError
from sandboxkit.gateway.model.account import Account
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import SandboxSpec


class Quiet(Agent):
    """Answers each prompt with the id of its conversation.

    Args:
        known: The conversations that can be found; shared by several objects, like a disk.

    Attributes:
        starts: The id of each start, and whether it was to be found.
        moves_to: The id under which the conversation goes on, like a CLI that forks it.
        runs: The id of the conversation of which an agent runs, to be taken up.
        held: Whether another host has the agent.
        fails: Whether it cannot be started.
    """

    name: ClassVar[str] = "quiet"
    interface_version: ClassVar[int] = 1

    def __init__(self, known: set[str] | None = None) -> None:
        self.known = set[str]() if known is None else known
        self.starts: list[tuple[str, bool]] = []
        self.moves_to: str | None = None
        self.runs: str | None = None
        self.held = self.fails = False
        self.ended: list[str] = []

    async def prepare(self, spec: SandboxSpec) -> SandboxSpec:
        return spec

    async def adopt(
        self, sandbox: Sandbox, account: Account, *, session_id: str
    ) -> Conversation | None:
        if self.held:
            raise AgentError("Another host has it.", code="held")
        return Talk(self, session_id) if session_id == self.runs else None

    async def start(
        self, sandbox: Sandbox, account: Account, *, session_id: str, resume: bool
    ) -> Conversation:
        if self.fails:
            raise AgentError("It does not start.")
        self.starts.append((session_id, resume))
        if resume and session_id not in self.known:
            raise AgentError("No conversation found.", code="no_conversation")
        return Talk(self, session_id)


class Talk(Conversation):
    """One conversation."""

    def __init__(self, agent: Quiet, session_id: str) -> None:
        self._agent, self._id = agent, session_id

    async def turn(self, prompt: str) -> AsyncGenerator[Event]:
        self._id = self._agent.moves_to or self._id
        self._agent.known.add(self._id)
        yield Finished(
            RunResult(
                self._id, (), 1, "end_turn", False, (), Usage(), None, Latency(None, 0.0), self._id
            )
        )

    async def interrupt(self) -> None:
        return

    async def settle(self) -> RunResult | None:
        return None

    async def detach(self) -> None:
        self._agent.ended.append("detached")

    async def aclose(self) -> None:
        self._agent.ended.append("closed")
