"""What an agent must supply, and what a run of any agent gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from sandboxkit.agents.latency import Latency
from sandboxkit.errors import UnsupportedError
from sandboxkit.gateway.model.meter import Sum
from sandboxkit.usage import Usage

if TYPE_CHECKING:
    from sandboxkit.agents.events import Event, Message
    from sandboxkit.errors import BudgetExceededError
    from sandboxkit.gateway.model.account import Account
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.spec import SandboxSpec
    from sandboxkit.store.archive import Archive

__all__ = [
    "INTERFACE_VERSION",
    "Agent",
    "Condition",
    "Conversation",
    "Latency",
    "RunResult",
    "Usage",
]

INTERFACE_VERSION: Final = 1
"""The version of `Agent`. A plugin written for another is refused by name."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What became of one prompt. That the agent failed is a result, not an error.

    Attributes:
        text: The final answer; empty where there is none.
        messages: The messages of the run, in order.
        turns: How often the model was asked, as the agent counts.
        stop_reason: `end_turn`, `max_turns`, `max_budget`, `interrupted`, `error`, or
            another word of the model's API, such as `refusal`.
        is_error: Whether the agent ended without doing what it was asked.
        errors: What the agent says about that.
        usage: Tokens of this run, sub-agents and the agent's own side requests included.
        cost_usd: What the agent itself reports for this run, at list prices; None where
            it reports none. It is not an invoice.
        latency: Where the time went.
        session_id: The agent's id of the conversation, for `Session(resume=...)`.
        metered: The same run as the gateway has counted it, outside of the agent's reach;
            None for an agent that does not go through it.
        over_budget: The limit that the run was stopped by; `stop_reason` is then
            `max_budget`. Raise the limit with `budget.allow(...)`, and the next prompt goes on.
        notes: What a careful reader should know of the figures, such as that the agent and
            the gateway have counted differently.
        structured_output: The value that was asked for by a schema, or None.
        raw: The agent's own result object.
    """

    text: str
    messages: tuple[Message, ...] = field(repr=False)
    turns: int
    stop_reason: str
    is_error: bool
    errors: tuple[str, ...]
    usage: Usage
    cost_usd: float | None
    latency: Latency
    session_id: str
    metered: Sum | None = None
    over_budget: BudgetExceededError | None = None
    notes: tuple[str, ...] = ()
    structured_output: object = None
    raw: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Condition:
    """How a started agent is, as far as its host knows without asking it.

    Attributes:
        ended: Why it runs no more; None while it does, or where that is not known.
        heard_at: When something last came from it, on the monotonic clock; None likewise.
    """

    ended: str | None = None
    heard_at: float | None = None


class Conversation(ABC):
    """A started agent. One prompt at a time; `Session` sees to that."""

    @abstractmethod
    def turn(self, prompt: str) -> AsyncGenerator[Event]:
        """Send a prompt; what happens until its `Finished`, which is the last event.

        Cancelling it, or closing it early, leaves the turn to `settle`.

        Raises:
            AgentError: The agent ended without a result.
            SandboxError: The sandbox failed.
        """

    @abstractmethod
    async def interrupt(self) -> None:
        """Stop the turn under way; it then ends with its `Finished` by itself."""

    @abstractmethod
    async def settle(self) -> RunResult | None:
        """After a turn that nobody follows any more: stop it, and wait for its end.

        The caller sets the deadline, and closes the conversation when it passes.

        Returns:
            The end of that turn, without its messages, so that its usage counts; None
            where no turn is under way.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End the agent and all that it started. Idempotent, bounded, never raises."""

    async def detach(self) -> None:
        """Let go of the agent, which goes on where it is `durable`. Idempotent, never raises."""
        await self.aclose()

    def condition(self) -> Condition:
        """How the agent is, for `Session.health`: at once, and without disturbing it.

        A plugin may leave this out.
        """
        return Condition()

    @property
    def turning(self) -> bool:
        """Of an adopted agent, whether a turn is under way, or has ended that none has followed."""
        return False

    def rest(self, after: str | None = None) -> AsyncGenerator[Event] | None:  # noqa: ARG002
        """Of an adopted agent, what is left of the turn under way, as `turn` gives it.

        None where no turn is under way.

        Args:
            after: A `position`, behind which it begins; None is what was handled last.

        Raises:
            AgentError: It cannot begin there; code `bad_position`.
        """
        return None

    @property
    def position(self) -> str | None:
        """Behind the last event of the turn; None where an agent does not outlive its host."""
        return None

    def handled(self, position: str) -> None:  # noqa: ARG002
        """The application has done with all events up to here: they need not come again."""
        return


class Agent(ABC):
    """An agent, as configured by the user; it can be started in many sandboxes.

    Attributes:
        name: The name it is chosen by.
        interface_version: The `INTERFACE_VERSION` it was written for: a literal
            number, so that a later sandboxkit can tell.
        install_hint: What to install when its package is missing.
    """

    name: ClassVar[str]
    interface_version: ClassVar[int]
    install_hint: ClassVar[str] = ""

    def kept_in(self, archive: Archive) -> Agent:  # noqa: ARG002
        """The same agent, with its conversation in a store; a plugin may leave this out.

        Args:
            archive: The conversation of one session: `archive.transcripts()` is a `SessionStore`
                of the `claude-agent-sdk`, `load` and `append` are for records of JSON.

        Raises:
            UnsupportedError: This agent cannot do that. The default.
        """
        raise UnsupportedError(
            f"the agent {self.name!r} cannot keep its conversation in a store (it has no kept_in)"
        )

    def hidden(self) -> Mapping[str, str]:
        """Values that no line of a log may show, by name; a plugin may leave this out."""
        return {}

    def durable(self) -> Agent:
        """The same agent, so started that it outlives its host, and `adopt` finds it.

        A plugin may leave this out: then the agent ends with its host, and the next one
        starts it anew.
        """
        return self

    async def adopt(
        self,
        sandbox: Sandbox,  # noqa: ARG002
        account: Account,  # noqa: ARG002
        *,
        session_id: str,  # noqa: ARG002
    ) -> Conversation | None:
        """Take up the agent that a host before this one has left running; None if none runs.

        Args:
            sandbox: Where.
            account: As for `start`.
            session_id: The id of the conversation.

        Raises:
            AgentError: It is held by another host that lives; code `held`.
            SandboxError: The sandbox failed.
        """
        return None

    @abstractmethod
    async def prepare(self, spec: SandboxSpec) -> SandboxSpec:
        """Check that the agent can run, before anything is created.

        Returns:
            The spec with what the agent needs, such as its artifacts.

        Raises:
            SandboxError: What is missing, and what to do.
        """

    @abstractmethod
    async def start(
        self, sandbox: Sandbox, account: Account, *, session_id: str, resume: bool
    ) -> Conversation:
        """Start the agent in a sandbox. A start that fails or is cancelled leaves nothing.

        Args:
            sandbox: Where.
            account: What the agent may ask of models, and where that is kept.
            session_id: The id of the conversation, a UUID.
            resume: Whether the conversation exists and is to be taken up, rather than begun.

        Raises:
            AgentError: It could not be started, or knows no such conversation.
            SandboxError: The sandbox failed.
        """
