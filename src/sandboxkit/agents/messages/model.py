"""One question to the model, and its answer as it comes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import anyio

from sandboxkit.agents.events import Event, Retry, TextDelta, ThinkingDelta
from sandboxkit.agents.messages.failures import BrokenOffError, UnreadableError, failure_of
from sandboxkit.usage import Usage

if TYPE_CHECKING:
    from anthropic.lib.streaming import AsyncMessageStream
    from anthropic.types import ParsedMessage

    from sandboxkit.agents.messages.client import Client
    from sandboxkit.agents.messages.tools.tool import Block

_FIRST_DELAY_S: Final = 0.5
_LONGEST_DELAY_S: Final = 8.0


class Model:
    """Asks, and follows the answers of one run.

    An answer that breaks off in the middle is asked for again, as the SDK does with one that
    does not begin; its pieces have been seen by then, and a `Retry` says that they are void.

    Args:
        client: Of the `anthropic` package.
        max_retries: How often an answer that breaks off is asked for again.
        emit: Takes the events.

    Attributes:
        usage: The tokens of all answers, those that broke off included.
        first_token_at: When the first piece of the first answer came, on the monotonic clock.
    """

    def __init__(self, client: Client, max_retries: int, emit: Callable[[Event], None]) -> None:
        self._client = client
        self._max_retries = max_retries
        self._emit = emit
        self._snapshot: ParsedMessage[None] | None = None
        self._whole_blocks = 0
        self.usage = Usage()
        self.first_token_at: float | None = None

    async def ask(self, request: Mapping[str, Any]) -> ParsedMessage[None]:
        """The whole answer; its pieces are events meanwhile.

        Raises:
            Exception: There is none; `failure_of` says what it means.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._answer(request)
            except Exception as error:
                failure = failure_of(error)
                begun = self._snapshot is not None
                if failure is None or not failure.passes or not begun:
                    raise  # where it had not begun, the SDK has asked again already
                if attempt > self._max_retries:
                    raise
                delay = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (attempt - 1))
                delay *= random.uniform(0.75, 1.0)  # noqa: S311 - so that not all come at once
                self.forget()
                self._emit(Retry(attempt, delay, failure.status, raw=error))
                await anyio.sleep(delay)

    async def _answer(self, request: Mapping[str, Any]) -> ParsedMessage[None]:
        self.forget()
        try:
            async with self._client.messages.stream(**request) as stream:
                await self._follow(stream)
            message = self._snapshot
            if message is None or message.stop_reason is None:
                raise BrokenOffError
            return message
        finally:
            if self._snapshot is not None:
                self.usage += usage_of(self._snapshot)

    async def _follow(self, stream: AsyncMessageStream[None]) -> None:
        try:
            async for event in stream:
                self._snapshot = stream.current_message_snapshot
                if event.type == "content_block_delta":
                    self._piece(event.delta, event)
                elif event.type == "content_block_stop":
                    self._whole_blocks += 1
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            # The SDK trusts the service to send what the API promises.
            raise UnreadableError(f"{type(error).__name__}: {error}"[:500]) from error

    def _piece(self, delta: Any, event: object) -> None:
        self.first_token_at = self.first_token_at or time.monotonic()
        if delta.type == "text_delta":
            self._emit(TextDelta(delta.text, raw=event))
        elif delta.type == "thinking_delta":
            self._emit(ThinkingDelta(delta.thinking, raw=event))

    def partial(self) -> list[Block]:
        """What there is of an answer that was left in the middle, as it may stay.

        Text, as far as it came, and whole thoughts; not the calls, which nobody has made.
        """
        message = self._snapshot
        if message is None:
            return []
        blocks = blocks_of(message)
        kept = blocks[: self._whole_blocks]
        kept += [block for block in blocks[self._whole_blocks :] if block["type"] == "text"]
        return without_calls(kept)

    def forget(self) -> None:
        """The last answer has its place in the history, or is void."""
        self._snapshot, self._whole_blocks = None, 0


def blocks_of(message: ParsedMessage[None]) -> list[Block]:
    """The content of an answer, as the API takes it back: without empty texts, which it refuses."""
    blocks: list[Block] = []
    for block in message.content:
        found: Block = block.to_dict()
        found.pop("parsed_output", None)  # the SDK's own
        if found.get("type") != "text" or found.get("text"):
            blocks.append(found)
    return blocks


def without_calls(blocks: list[Block]) -> list[Block]:
    """The texts and thoughts, without calls of tools; nothing where only thoughts are left."""
    kept = [b for b in blocks if b["type"] in {"text", "thinking", "redacted_thinking"}]
    return kept if any(block["type"] == "text" for block in kept) else []


def usage_of(message: ParsedMessage[None]) -> Usage:
    """The tokens of an answer."""
    usage = message.usage
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens or 0,
        usage.cache_creation_input_tokens or 0,
        usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else 0,
    )
