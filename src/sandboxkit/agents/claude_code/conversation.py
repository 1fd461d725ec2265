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

    from sandboxkit.agents.claude_code.inbox import Received
    from sandboxkit.agents.claude_code.lasting import LastingTransport
    from sandboxkit.agents.claude_code.ledger import Placed, Position
    from sandboxkit.agents.latency import Span
    from sandboxkit.gateway.model.meter import Meter, ModelCall
    from sandboxkit.usage import Usage

_CLOSE_S: Final = 90.0
_INTERRUPT_S: Final = 2.0
_MOST_CALLS: Final = 10_000
_TAKEN_OVER: Final = (
    "This turn was begun by another host: `messages`, `latency` and `metered` are what was seen "
    "since this one took it up, the other figures are of the whole turn."
)


class ClaudeCodeConversation(Conversation):
    """One connected `ClaudeSDKClient`.

    Args:
        client: Connected; closed with the conversation.
        stderr: The last lines of the CLI's stderr, kept up to date by the client's owner.
        before: What the CLI counts on from.
        meter: What the gateway counts; None where the model is reached without it.
        transport: To a CLI that outlives this host; None for one that ends with it.
    """

    def __init__(
        self,
        client: ClaudeSDKClient,
        stderr: Sequence[str] = (),
        before: Totals = NOTHING,
        meter: Meter | None = None,
        transport: LastingTransport | None = None,
    ) -> None:
        self._client = client
        self._transport = transport
        self._ledger = ledger = None if transport is None else transport.ledger
        self._inbox = Inbox(client, ledger)
        self._stderr = stderr
        self._prompt_id = None if ledger is None else ledger.prompt_id
        self._taken_over = self._prompt_id is not None  # the turn is another host's
        self._answered_id = ""
        self._position: Position | None = None
        self._interrupted = False
        self._detached = False
        self._totals = before if ledger is None else ledger.totals
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
            self._prompt_id, self._interrupted, begin = str(uuid4()), False, None
            if self._ledger is not None:
                if self._position is not None:
                    self._ledger.handled(self._position)  # of the turn before
                self._ledger.starts(self._prompt_id, self._totals)
                begin = self._ledger.at  # what an earlier host has handled may come again
            await self._client.query(_prompt(prompt, self._prompt_id))
            async for event in self._events(clock, kept, begin):
                yield event

    def rest(self, after: str | None = None) -> AsyncGenerator[Event] | None:
        """See `Conversation.rest`."""
        ledger, begin = self._ledger, None
        if ledger is None or self._prompt_id is None:
            return None
        if after is not None:
            begin = ledger.read_position(after)
        return self._rest(begin or ledger.at)

    async def _rest(self, begin: Position) -> AsyncGenerator[Event]:
        with as_sandbox_errors(self._stderr):
            async for event in self._events(_Clock(), list[Message](), begin):
                yield event

    async def _events(
        self, clock: _Clock, kept: list[Message], begin: Position | None = None
    ) -> AsyncGenerator[Event]:
        """The events of the turn under way, from a position on."""
        async for (at, message, place), last in self._until_answered():
            events = list(messages.events_of(message))
            if begin is None or place is None or place.end > begin.offset:
                for event in events:
                    clock.saw(event, message, at)
            if isinstance(message, ResultMessage):
                events.append(self._ended(message, place, clock, at, kept, last=last))
            for number, event in enumerate(events, 1):
                if place is not None:
                    position = place.behind(number, len(events))
                    if begin is not None and position <= begin:
                        continue
                    self._position = position
                if isinstance(event, Message):
                    kept.append(event)
                yield event
            self._done_with(place, events)

    def _ended(
        self,
        message: ResultMessage,
        place: Placed | None,
        clock: _Clock,
        at: float,
        kept: Sequence[Message],
        *,
        last: bool,
    ) -> Event:
        if not last:
            return Notice("background_result", raw=message)
        latency = clock.read(at, self._calls_since(clock.began))
        return Finished(self._result(message, kept, latency, place), raw=message)

    async def _until_answered(self) -> AsyncGenerator[tuple[Received, bool]]:
        """The messages, and whether it is the last: the prompt's result."""
        while (prompt_id := self._prompt_id) is not None:
            received = await self._inbox.next()
            message = received.message
            last = isinstance(message, ResultMessage) and messages.answers(message, prompt_id)
            if last:
                self._prompt_id = None
                self._answered_id = prompt_id
            elif self._interrupted and messages.begins_turn(message):
                await self._inbox.interrupt()  # it had come before the turn's beginning
            yield received, last

    def _done_with(self, place: Placed | None, events: Sequence[Event] = ()) -> None:
        if self._ledger is None or place is None:
            return
        if events:
            self._ledger.handled(place.behind(1, 1))
        else:
            self._ledger.passed(place)

    @property
    def turning(self) -> bool:
        """See `Conversation.turning`."""
        return self._prompt_id is not None

    @property
    def position(self) -> str | None:
        """See `Conversation.position`."""
        if self._ledger is None or self._position is None:
            return None
        return self._ledger.position(self._position)

    def handled(self, position: str) -> None:
        """See `Conversation.handled`."""
        if self._ledger is not None:
            self._ledger.handled(self._ledger.read_position(position))

    def _result(
        self,
        message: ResultMessage,
        kept: Sequence[Message],
        latency: Latency,
        place: Placed | None,
    ) -> RunResult:
        before, cost = self._totals, message.total_cost_usd
        if message.model_usage:
            self._totals = totals_of(message.model_usage, cost)
        usage = self._totals.usage - before.usage
        cost = None if cost is None else max(0.0, cost - before.cost_usd)
        metered, refusal = self._metered_since(), None
        if self._ledger is not None and place is not None:
            self._ledger.result(place, self._answered_id, self._totals)
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
            notes=self._notes(usage, cost, metered),
            structured_output=message.structured_output,
            raw=message,
        )

    def _notes(self, usage: Usage, cost: float | None, metered: Sum | None) -> tuple[str, ...]:
        if self._taken_over:
            self._taken_over = False
            return (_TAKEN_OVER,)
        return () if metered is None else disagreements(usage, cost, metered)

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
            async for (at, message, place), last in self._until_answered():
                if last and isinstance(message, ResultMessage):
                    latency = Latency(None, at - began, other_s=at - began)
                    result = self._result(message, (), latency, place)
                if self._ledger is not None and place is not None:
                    self._ledger.handled(place.behind(1, 1))
        return result

    async def detach(self) -> None:
        """See `Conversation.detach`."""
        if self._transport is None or self._detached:
            await self.aclose()
            return
        self._detached = True
        with contextlib.suppress(Exception):
            await run_to_end(self._let_go(self._transport), deadline_s=_CLOSE_S)

    async def _let_go(self, transport: LastingTransport) -> None:
        if self._unlisten is not None:
            self._unlisten()
        await self._inbox.aclose()
        await transport.detach()
        await self._client.disconnect()

    async def aclose(self) -> None:
        """See `Conversation.aclose`."""
        if self._detached:
            return
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
