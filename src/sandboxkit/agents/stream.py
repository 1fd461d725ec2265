"""One prompt and what comes of it, as a stream that can be left at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

import anyio

from sandboxkit.agents.events import Finished
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import AgentError, SandboxClosedError

if TYPE_CHECKING:
    from sandboxkit.agents.base import Conversation, RunResult
    from sandboxkit.agents.events import Event

log = logging.getLogger(__name__)

SETTLE_S: Final = 15.0
"""Seconds for an agent to stop a turn that was left; then it is ended, and started anew."""

_CLOSE_S = 60.0


class Owner(Protocol):
    """What a turn needs of its session."""

    async def begin(self, turn: Turn) -> Conversation:
        """Make this the session's turn; the conversation to hold it in."""
        ...

    def finished(self, turn: Turn, result: RunResult | None) -> None:
        """The turn is over; `result` is None where the agent gave none."""
        ...

    def broke(self, turn: Turn, error: BaseException) -> None:
        """The turn has ended by this error; `finished` follows."""
        ...

    def noticed(self) -> Sequence[Event]:
        """What has happened beside the agent, and was not said before."""
        ...

    async def discard(self, conversation: Conversation) -> None:
        """The conversation cannot be used any more."""
        ...


class Turn:
    """A prompt, from the first time that its events are asked for.

    Args:
        owner: The session.
        prompt: The prompt; None to follow the turn that another host has begun.
        after: Behind which position; None is where that host has stopped.

    Attributes:
        left: Whether nobody follows it any more.
        follows: Whether it was begun by another host.
        position: Behind the last event that was given; None before it, and where the agent
            has no positions.
    """

    def __init__(self, owner: Owner, prompt: str | None, after: str | None = None) -> None:
        self._owner = owner
        self._prompt = prompt
        self._after = after
        self.follows = prompt is None
        self.position: str | None = None
        self._let_go = False
        self._conversation: Conversation | None = None
        self._events: AsyncGenerator[Event] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: deque[tuple[Event, str | None]] = deque()
        self._machine_s = 0.0
        self._over = False
        self.left = False

    async def next(self) -> Event:
        """The next event.

        Raises:
            StopAsyncIteration: There are no more.
        """
        if self._let_go:
            raise SandboxClosedError("The session was let go of in the middle of this turn.")
        self._acknowledge()
        if self._held and not self.left:
            return self._given()
        if self._over or self.left:
            raise StopAsyncIteration
        try:
            if self._events is None:
                self._loop = asyncio.get_running_loop()
                began = time.monotonic()
                conversation = await self._owner.begin(self)
                self._machine_s = time.monotonic() - began
                self._events = self._started(conversation)
                self._conversation = conversation
            event = await anext(self._events)
        except asyncio.CancelledError:
            await self.leave()
            raise
        except StopAsyncIteration:  # all that was left had been handled
            self._over = True
            self._owner.finished(self, None)
            raise
        except BaseException as error:
            await self._failed(error)
            raise
        if isinstance(event, Finished):
            latency = event.result.latency.after(self._machine_s)
            event = replace(event, result=replace(event.result, latency=latency))
            self._over = True
            self._owner.finished(self, event.result)
            await self._events.aclose()
        self._held.extend((noticed, self.position) for noticed in self._owner.noticed())
        self._held.append(
            (event, None if self._conversation is None else self._conversation.position)
        )
        return self._given()

    def _acknowledge(self) -> None:
        """Who asks for the next event, or leaves a turn that is over, has done with the last."""
        if self._conversation is None or self.position is None or self.left or self._let_go:
            return
        self._conversation.handled(self.position)

    def _given(self) -> Event:
        event, self.position = self._held.popleft()
        return event

    def _started(self, conversation: Conversation) -> AsyncGenerator[Event]:
        if self._prompt is not None:
            return conversation.turn(self._prompt)
        rest = conversation.rest(self._after)
        if rest is None:
            raise AgentError("No turn is under way, and none is left over.", code="no_turn")
        return rest

    def let_go(self) -> None:
        """The agent is left alone in the middle of the turn: it is not to be interrupted."""
        if not self._over:
            self._over = self._let_go = True

    async def _failed(self, error: BaseException) -> None:
        self._over = True
        self._owner.broke(self, error)
        if self._conversation is not None:
            await run_to_end(self._owner.discard(self._conversation), deadline_s=_CLOSE_S)
        self._owner.finished(self, None)

    async def leave(self) -> None:
        """Stop the turn if it is under way, and wait until it is; not cut by cancellation."""
        if self._over:
            self._acknowledge()
            return
        self.left = True
        with contextlib.suppress(TimeoutError):
            await run_to_end(self._settled(), deadline_s=SETTLE_S + _CLOSE_S)

    def leave_soon(self) -> None:
        """The same from outside the loop's flow: the stream was dropped without a word."""
        if self.left or self._loop is None:
            return
        self.left = not self._over
        then = self._acknowledge if self._over else self._start_settling
        with contextlib.suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(then)

    def _start_settling(self) -> asyncio.Task[None]:
        if self._settling is None:
            self._settling = asyncio.ensure_future(self._settle())
        return self._settling

    async def _settled(self) -> None:
        await asyncio.wait({self._start_settling()})

    async def _settle(self) -> None:
        result: RunResult | None = None
        try:
            if self._events is not None:
                await self._events.aclose()
            if self._conversation is not None:
                result = await self._interrupted(self._conversation)
        finally:
            self._over = True
            self._owner.finished(self, result)

    async def _interrupted(self, conversation: Conversation) -> RunResult | None:
        try:
            with anyio.fail_after(SETTLE_S):
                return await conversation.settle()
        except Exception as error:  # noqa: BLE001 - whatever it was, a new one will be started
            log.info("The agent did not stop, and is ended: %s", error)
            await self._owner.discard(conversation)
            return None


class EventStream:
    """The events of one prompt, for `async for`. The last one is `Finished`.

    It begins with the first event that is asked for. If it is left before the end, by
    `break`, by an exception, by cancellation or by `aclose`, the agent is interrupted.
    `async with` waits until that is done; else the session's next prompt does.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        weakref.finalize(self, turn.leave_soon).atexit = False

    def __aiter__(self) -> Self:
        return self

    @property
    def position(self) -> str | None:
        """Behind the last event that was given, for `Session.follow(after=...)`.

        None before the first, and where the agent does not outlive its host. A host that keeps
        it together with what it has made of the event gets each event exactly once.
        """
        return self._turn.position

    async def __anext__(self) -> Event:
        return await self._turn.next()

    async def aclose(self) -> None:
        """Leave the stream. After the end, nothing happens."""
        await self._turn.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
