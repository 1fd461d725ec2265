"""A running CLI as a `Conversation`: prompts in, events out."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import anyio
from claude_agent_sdk import ResultMessage

from sandboxkit.agents.base import Condition, Conversation, Latency, RunResult
from sandboxkit.agents.claude_code import messages
from sandboxkit.agents.claude_code.comparison import disagreements
from sandboxkit.agents.claude_code.failures import as_sandbox_errors
from sandboxkit.agents.claude_code.inbox import Inbox
from sandboxkit.agents.claude_code.totals import NOTHING, Totals, totals_of
from sandboxkit.agents.events import Event, Finished, Message, Notice, ToolCall, ToolResult
from sandboxkit.agents.latency import breakdown
from sandboxkit.concurrency import run_to_end
from sandboxkit.gateway.model.meter import Sum

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeSDKClient
    from claude_agent_sdk import Message as SdkMessage

    from sandboxkit.agents.latency import Span
    from sandboxkit.gateway.model.meter import Meter, ModelCall

_CLOSE_S: Final = 90.0
_INTERRUPT_S: Final = 2.0
_MOST_CALLS: Final = 10_000


class ClaudeCodeConversation(Conversation):
    """One connected `ClaudeSDKClient`.

    Args:
        client: Connected; closed with the conversation.
        stderr: The last lines of the CLI's stderr, kept up to date by the client's owner.
        before: What the CLI counts on from.
        meter: What the gateway counts; None where the model is reached without it.
    """

    def __init__(
        self,
        client: ClaudeSDKClient,
        stderr: Sequence[str] = (),
        before: Totals = NOTHING,
        meter: Meter | None = None,
    ) -> None:
        self._client = client
        self._inbox = Inbox(client)
        self._stderr = stderr
        self._prompt_id: str | None = None
        self._interrupted = False
        self._totals = before
        self._meter = meter
        self._metered = Sum() if meter is None else meter.total
        self._calls: deque[ModelCall] = deque(maxlen=_MOST_CALLS)  # since the last result
        self._unlisten = None if meter is None else meter.listen(self._calls.append)

    @property
    def client(self) -> ClaudeSDKClient:
        """The SDK's client, for what it alone can do, such as `set_model`.

        Its messages are the conversation's: do not receive from it.
        """
        return self._client

    def condition(self) -> Condition:
        """See `Conversation.condition`."""
        end = self._inbox.end
        return Condition(None if end is None else str(end), self._inbox.heard_at)

    async def turn(self, prompt: str) -> AsyncGenerator[Event]:
        """See `Conversation.turn`."""
        clock, kept = _Clock(), list[Message]()
        with as_sandbox_errors(self._stderr):
            self._prompt_id, self._interrupted = str(uuid4()), False
            await self._client.query(_prompt(prompt, self._prompt_id))
            async for at, message, last in self._until_answered():
                for event in messages.events_of(message):
                    clock.saw(event, message, at)
                    if isinstance(event, Message):
                        kept.append(event)
                    yield event
                if isinstance(message, ResultMessage):
                    if last:
                        latency = clock.read(at, self._calls_since(clock.began))
                        yield Finished(self._result(message, kept, latency), raw=message)
                    else:
                        yield Notice("background_result", raw=message)

    async def _until_answered(self) -> AsyncGenerator[tuple[float, SdkMessage, bool]]:
        """The messages with their times, and whether it is the last: the prompt's result."""
        while (prompt_id := self._prompt_id) is not None:
            at, message = await self._inbox.next()
            last = isinstance(message, ResultMessage) and messages.answers(message, prompt_id)
            if last:
                self._prompt_id = None
            elif self._interrupted and messages.begins_turn(message):
                await self._inbox.interrupt()  # it had come before the turn's beginning
            yield at, message, last

    def _result(
        self, message: ResultMessage, kept: Sequence[Message], latency: Latency
    ) -> RunResult:
        before, cost = self._totals, message.total_cost_usd
        if message.model_usage:
            self._totals = totals_of(message.model_usage, cost)
        usage = self._totals.usage - before.usage
        cost = None if cost is None else max(0.0, cost - before.cost_usd)
        metered, refusal = self._metered_since(), None
        if message.is_error:
            refusal = next((c.over_budget for c in reversed(self._calls) if c.over_budget), None)
        self._calls.clear()
        return RunResult(
            text=message.result or "",
            messages=tuple(kept),
            turns=message.num_turns,
            stop_reason="max_budget" if refusal else messages.stop_reason(message),
            is_error=message.is_error,
            errors=messages.errors(message),
            usage=usage,
            cost_usd=cost,
            latency=latency,
            session_id=message.session_id,
            metered=metered,
            over_budget=refusal,
            notes=() if metered is None else disagreements(usage, cost, metered),
            structured_output=message.structured_output,
            raw=message,
        )

    def _metered_since(self) -> Sum | None:
        """What the gateway has counted since the last result."""
        if self._meter is None:
            return None
        before, self._metered = self._metered, self._meter.total
        return self._metered - before

    def _calls_since(self, began: float) -> list[ModelCall]:
        return [call for call in self._calls if call.began >= began]

    async def interrupt(self) -> None:
        """See `Conversation.interrupt`."""
        if self._prompt_id is not None:
            self._interrupted = True
            with as_sandbox_errors(self._stderr):
                await self._inbox.interrupt()

    async def settle(self) -> RunResult | None:
        """See `Conversation.settle`."""
        began, result = time.monotonic(), None
        await self.interrupt()
        with as_sandbox_errors(self._stderr):
            async for at, message, last in self._until_answered():
                if last and isinstance(message, ResultMessage):
                    result = self._result(
                        message, (), Latency(None, at - began, other_s=at - began)
                    )
        return result

    async def aclose(self) -> None:
        """See `Conversation.aclose`."""
        with contextlib.suppress(Exception):
            await run_to_end(self._close(), deadline_s=_CLOSE_S)

    async def _close(self) -> None:
        if self._prompt_id is not None:
            # In mid-stream the CLI does not leave on the end of its input.
            with contextlib.suppress(Exception), anyio.move_on_after(_INTERRUPT_S):
                await self._inbox.interrupt()
        if self._unlisten is not None:
            self._unlisten()
        await self._inbox.aclose()
        await self._client.disconnect()


async def _prompt(text: str, prompt_id: str) -> AsyncIterator[dict[str, Any]]:
    yield {
        "type": "user",
        "uuid": prompt_id,
        "message": {"role": "user", "content": text},
        "parent_tool_use_id": None,
    }


class _Clock:
    """Takes the times of one turn."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._first: float | None = None
        self._open: set[str] = set()
        self._opened = 0.0
        self._tools: list[Span] = []

    def saw(self, event: Event, message: SdkMessage, at: float) -> None:
        """Note an event, and when its message came."""
        if self._first is None and messages.is_answer(message):
            self._first = at
        if event.parent_id is not None:
            return
        if isinstance(event, ToolCall):
            if not self._open:
                self._opened = at
            self._open.add(event.id)
        elif isinstance(event, ToolResult) and event.id in self._open:
            self._open.discard(event.id)
            if not self._open:
                self._tools.append((self._opened, at))

    def read(self, at: float, calls: Sequence[ModelCall]) -> Latency:
        """The times of a turn that ended then."""
        tools = [*self._tools, (self._opened, at)] if self._open else self._tools
        return breakdown((self.began, at), first_token=self._first, calls=calls, tools=tools)
