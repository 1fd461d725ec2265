"""What a script is written in: `say`, `think`, `call`, `fail`, and `Reply` for the details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from pydantic import JsonValue

StopReason: TypeAlias = Literal[
    "end_turn",
    "max_tokens",
    "model_context_window_exceeded",
    "pause_turn",
    "refusal",
    "stop_sequence",
    "tool_use",
]


@dataclass(frozen=True, slots=True)
class Text:
    """A text block; `say` makes it."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking block; `think` makes it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool_use block; `call` makes it."""

    name: str
    input: Mapping[str, JsonValue]


Block: TypeAlias = Text | Thinking | ToolCall


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP error instead of an answer; `fail` makes it."""

    status: int
    message: str
    retry_after_s: float | None = None


_OVERLOADED = Failure(529, "Overloaded")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of several blocks, or one with details: counts, pace, faults.

    A streamed answer is a row of events: one to start the message; for each block one to start
    it, one for each word of its content, one to end it; two to end the message. An answer that
    is not streamed has no events: it is dropped or stalled as a whole.

    Args:
        blocks: What the model says, thinks and calls. Empty is an answer without content.
        stop_reason: Default: `tool_use` where a block is a call, else `end_turn`.
        input_tokens: Usage as the server reports it: what was read, without the cached part.
        output_tokens: Usage: what was written.
        cache_read_tokens: Usage: what was read from the cache.
        cache_creation_tokens: Usage: what was written to the cache.
        cache_creation_1h_tokens: Usage: what of that the cache keeps for an hour.
        delay_s: Seconds of silence before the first byte.
        pause_s: Seconds between two events.
        drop_after_events: Close the connection after so many events. 0 closes it without a byte.
        stall_after_events: Send so many events, and no more until the client hangs up.
        fail_after_events: Send so many events (one at least), then an event of type `error`,
            and end the stream: as the API does where it fails after it has begun.
        failure: The error of that event.

    Raises:
        ValueError: A number is negative, or the answer ends early in two ways.
    """

    blocks: Sequence[Block]
    stop_reason: StopReason | None = None
    input_tokens: int = 100
    output_tokens: int = 20
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    cache_creation_1h_tokens: int = 0
    delay_s: float = 0.0
    pause_s: float = 0.0
    drop_after_events: int | None = None
    stall_after_events: int | None = None
    fail_after_events: int | None = None
    failure: Failure = _OVERLOADED

    def __post_init__(self) -> None:
        for name in (
            *("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens"),
            *("delay_s", "pause_s", "drop_after_events", "stall_after_events"),
            *("cache_creation_1h_tokens", "fail_after_events"),
        ):
            value: float | None = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"`{name}` is {value}; it must not be negative.")
        ends = (self.drop_after_events, self.stall_after_events, self.fail_after_events)
        if sum(end is not None for end in ends) > 1:
            raise ValueError(
                "An answer is either dropped, stalled or failed; give one of the three numbers."
            )
        if self.fail_after_events == 0:
            raise ValueError("An answer that fails before its first event is `fail(...)`.")


Step: TypeAlias = Block | Sequence[Block] | Reply | Failure


def say(text: str) -> Text:
    """Text, streamed word by word.

    Raises:
        ValueError: `text` is empty, which the Messages API does not know.
    """
    if not text:
        raise ValueError("`say` needs a text; an answer without content is `Reply([])`.")
    return Text(text)


def think(text: str) -> Thinking:
    """A thought, streamed word by word, with a signature that means nothing."""
    return Thinking(text)


def call(name: str, /, **arguments: JsonValue) -> ToolCall:
    """A call of the tool `name`: `call("Bash", command="pytest -q")`."""
    return ToolCall(name, arguments)


def fail(status: int, message: str = "", *, retry_after_s: float | None = None) -> Failure:
    """An HTTP error with the body that the Messages API gives to it.

    Args:
        status: 400 to 599; 429 is a rate limit, 529 an overload.
        message: Default: one that names the script as the cause.
        retry_after_s: Seconds for the `Retry-After` header; None sends no such header.

    Raises:
        ValueError: `status` is no error, or `retry_after_s` is negative.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"HTTP status {status} is no error; `fail` takes 400 to 599.")
    if retry_after_s is not None and retry_after_s < 0:
        raise ValueError(f"`retry_after_s` is {retry_after_s}; it must not be negative.")
    return Failure(status, message or f"The script answers with status {status}.", retry_after_s)


def answer_of(step: object) -> Reply | Failure:
    """A step in its full form.

    Raises:
        TypeError: It is no step.
    """
    match step:
        case Reply() | Failure():
            return step
        case Text() | Thinking() | ToolCall():
            return Reply((step,))
        case list() | tuple():
            return Reply(tuple(_block(item) for item in cast("Sequence[object]", step)))
        case str():
            raise TypeError(f"{step!r} is no step of a script; write say({step!r}).")
        case _:
            raise TypeError(f"{type(step).__name__} is no step of a script.")


def _block(item: object) -> Block:
    if isinstance(item, Text | Thinking | ToolCall):
        return item
    raise TypeError(
        f"{type(item).__name__} is no block; a list holds say(...), think(...) and call(...)."
    )
