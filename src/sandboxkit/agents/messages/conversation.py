"""A started messages agent as a `Conversation`: prompts in, events out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import anyio

from sandboxkit.agents.base import Condition, Conversation, Latency, RunResult
from sandboxkit.agents.events import Event, Finished, Message
from sandboxkit.agents.latency import breakdown
from sandboxkit.agents.messages.loop import End, Run
from sandboxkit.agents.messages.model import Model
from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import InvalidSpecError, SandboxClosedError

if TYPE_CHECKING:
    from sandboxkit.agents.messages.client import Attempts, Client
    from sandboxkit.agents.messages.history import History
    from sandboxkit.agents.messages.tools.toolbox import Toolbox
    from sandboxkit.gateway.model.endpoint import ModelEndpoint

_CLOSE_S: Final = 60.0
_STOP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a conversation is made of.

    Attributes:
        session_id: Its id.
        request: The fields of each request, without the messages.
        max_turns: See `Messages`; so are `max_retries` and `cache`.
        resources: What is closed with it.
    """

    session_id: str
    request: Mapping[str, Any]
    max_turns: int | None
    max_retries: int
    cache: str | None
    client: Client
    attempts: Attempts
    endpoint: ModelEndpoint
    history: History
    toolbox: Toolbox
    resources: AsyncExitStack


class MessagesConversation(Conversation):
    """The loop runs in a task of its own, so that a slow reader does not slow it down."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._messages: list[Message] = []
        self._result: RunResult | None = None
        self._metered = parts.endpoint.account.meter.total
        self._closed = False
        self._heard_at = time.monotonic()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """A copy of the conversation so far, as the Messages API has it."""
        return [dict(message) for message in self._parts.history.messages]

    async def turn(self, prompt: str) -> AsyncGenerator[Event]:
        """See `Conversation.turn`."""
        if self._closed:
            raise SandboxClosedError("The session has been closed.")
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise InvalidSpecError("the prompt holds half of a surrogate pair") from None
        self._begin(prompt)
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                self._task = None
                raise event
            if isinstance(event, Finished):
                self._task = None
            yield event
            if isinstance(event, Finished):
                return

    def _begin(self, prompt: str) -> None:
        parts = self._parts
        self._events, self._messages, self._result = asyncio.Queue(), [], None
        model = Model(parts.client, parts.max_retries, self._emit)
        parts.attempts.tell = self._emit
        self._run = Run(
            prompt,
            request=parts.request,
            history=parts.history,
            model=model,
            toolbox=parts.toolbox,
            emit=self._emit,
            max_turns=parts.max_turns,
            cache=parts.cache,
        )
        self._task = asyncio.ensure_future(self._work(self._run, model))

    def condition(self) -> Condition:
        """See `Conversation.condition`: its loop, on this machine, lives until it is closed."""
        return Condition("it has been closed" if self._closed else None, self._heard_at)

    def _emit(self, event: Event) -> None:
        self._heard_at = time.monotonic()
        if isinstance(event, Message):
            self._messages.append(event)
        self._events.put_nowait(event)

    async def _work(self, run: Run, model: Model) -> None:
        began = time.monotonic()
        try:
            end = await run.to_end()
            await self._parts.endpoint.settled()
            now = time.monotonic()
            meter = self._parts.endpoint.account.meter
            calls = [call for call in meter.calls if call.began >= began]
            latency = breakdown(
                (began, now), first_token=model.first_token_at, calls=calls, tools=run.tools
            )
            refusals = [call.over_budget for call in calls if call.over_budget and end.errors]
            made = self._made(end, run, model, latency)
            self._result = replace(made, over_budget=refusals[-1] if refusals else None)
            self._events.put_nowait(Finished(self._result, raw=end.raw))
        except Exception as error:  # noqa: BLE001 - raised to whoever reads
            self._events.put_nowait(error)

    def _made(self, end: End, run: Run, model: Model, latency: Latency) -> RunResult:
        meter = self._parts.endpoint.account.meter
        before, self._metered = self._metered, meter.total
        metered = self._metered - before
        return RunResult(
            text=end.text,
            messages=tuple(self._messages),
            turns=run.turns,
            stop_reason=end.stop_reason,
            is_error=bool(end.errors),
            errors=end.errors,
            usage=model.usage,
            cost_usd=metered.cost_usd,
            latency=latency,
            session_id=self._parts.session_id,
            metered=metered,
            raw=end.raw,
        )

    async def interrupt(self) -> None:
        """See `Conversation.interrupt`."""
        if self._task is not None and self._run is not None:
            self._run.interrupt()

    async def settle(self) -> RunResult | None:
        """See `Conversation.settle`."""
        task = self._task
        if task is None:
            return None
        await self.interrupt()
        await asyncio.wait({task})
        self._task = None
        while not self._events.empty():
            event = self._events.get_nowait()
            if isinstance(event, Exception):
                raise event
        return None if self._result is None else replace(self._result, messages=())

    async def aclose(self) -> None:
        """See `Conversation.aclose`. A turn that somebody follows fails."""
        with contextlib.suppress(Exception):
            await run_to_end(self._close(), deadline_s=_CLOSE_S)

    async def _close(self) -> None:
        self._closed = True
        task, self._task = self._task, None
        try:
            if task is not None and not task.done():
                self._events.put_nowait(SandboxClosedError("The session was closed in mid-turn."))
                if self._run is not None:
                    self._run.interrupt()
                with anyio.move_on_after(_STOP_S):
                    await asyncio.wait({task})
                with anyio.move_on_after(_STOP_S):  # a tool of the caller's may not listen
                    await cancel_and_wait(task)
        finally:
            self._parts.history.close()
            await self._parts.resources.aclose()
