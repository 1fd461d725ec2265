"""What an agent does, as it happens: the same events for every agent.

Each event carries the agent's own message object as `raw`, for what is not modelled
here; several events may come from one message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from sandboxkit.agents.base import RunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """What all events have.

    Attributes:
        parent_id: The tool call that started the sub-agent which this comes from; None
            for the agent itself.
        raw: The agent's own message object.
    """

    parent_id: str | None = None
    raw: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TextDelta(_Event):
    """A piece of text, as the model writes it. The whole follows as a `Message`."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta(_Event):
    """A piece of the model's thinking, as it is streamed."""

    text: str


@dataclass(frozen=True, slots=True)
class Message(_Event):
    """A whole message of the conversation.

    Attributes:
        role: Who it is from. Tool results come as messages of the user.
        text: Its text blocks, joined; empty where it only calls tools.
    """

    role: Literal["assistant", "user"]
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall(_Event):
    """The model calls a tool.

    Attributes:
        id: The id that the `ToolResult` will name.
        name: The tool.
        input: Its arguments, as the model wrote them.
    """

    id: str
    name: str
    input: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ToolResult(_Event):
    """What a tool gave back.

    Attributes:
        id: The id of the `ToolCall`.
        text: Its text blocks, joined.
        is_error: Whether the tool failed or was refused.
    """

    id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Retry(_Event):
    """The model did not answer; the agent asks again by itself.

    Attributes:
        attempt: The number of the attempt that failed, from 1.
        delay_s: Seconds until the next one; None where the agent does not say.
        status: The HTTP status; None where there was no answer at all.
    """

    attempt: int
    delay_s: float | None
    status: int | None


@dataclass(frozen=True, slots=True)
class NetworkRefusal(_Event):
    """The gateway has refused something that the sandbox asked for, this agent or another program.

    It comes before the agent's own next event; `sandbox.network.refusals()` tells at once.
    `raw` is the gateway's `Decision`.

    Attributes:
        method: `CONNECT`, the method of a plain HTTP request, or `TLS`.
        host: The host that was asked for; empty where none could be read.
        port: The port; 0 likewise.
        reason: Why, as the agent was told it.
    """

    method: str
    host: str
    port: int
    reason: str


@dataclass(frozen=True, slots=True)
class Notice(_Event):
    """Anything else that the agent reports.

    Attributes:
        kind: The agent's own word for it, such as `init`.
        data: What it says.
    """

    kind: str
    data: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)


@dataclass(frozen=True, slots=True)
class Finished(_Event):
    """The last event of a run.

    Attributes:
        result: What `Session.run` returns.
    """

    result: RunResult


Event: TypeAlias = (
    TextDelta
    | ThinkingDelta
    | Message
    | ToolCall
    | ToolResult
    | Retry
    | NetworkRefusal
    | Notice
    | Finished
)
