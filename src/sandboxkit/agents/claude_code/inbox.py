"""The messages of a CLI, taken from the SDK as they come, with the time of each.

The SDK reads answers to control requests and messages from one stream. Where nobody
takes the messages, an `interrupt` would wait for an answer that stands behind them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxkit.agents.claude_code import sdk
from sandboxkit.agents.claude_code.ledger import Placed
from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import AgentError, SandboxClosedError

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeSDKClient
    from claude_agent_sdk import Message as SdkMessage

    from sandboxkit.agents.claude_code.ledger import Ledger

MAX_WAITING: Final = 1000
"""Messages that wait for a slow reader before the CLI is slowed down."""


class Received(NamedTuple):
    """A message of the CLI.

    Attributes:
        at: When it came, on the monotonic clock.
        place: Its place in the output of a CLI that outlives its host.
    """

    at: float
    message: SdkMessage
    place: Placed | None


class Inbox:
    """Reads a connected client until it ends.

    Args:
        client: The client.
        ledger: Of a CLI that outlives its host; its messages then come with their places.

    Attributes:
        heard_at: When the last message came, on the monotonic clock; before it, the start.
    """

    def __init__(self, client: ClaudeSDKClient, ledger: Ledger | None = None) -> None:
        self._client = client
        self._ledger = ledger
        self._waiting: deque[Received] = deque()
        self._end: Exception | None = None
        self._changed = asyncio.Event()
        self._urgent = 0
        self.heard_at = time.monotonic()
        self._task = asyncio.ensure_future(self._read())

    async def next(self) -> Received:
        """The next message and when it came, on the monotonic clock. Cancelling loses none.

        Raises:
            Exception: What the SDK raised, when all messages before it have been taken.
            AgentError: The CLI has ended; code `no_result`.
            SandboxClosedError: The inbox was closed.
        """
        while not self._waiting:
            if self._end is not None:
                raise self._end
            await self._change()
        item = self._waiting.popleft()
        self._notify()
        return item

    @property
    def end(self) -> Exception | None:
        """What ended it; None while it reads."""
        return self._end

    async def interrupt(self) -> None:
        """Ask the CLI to stop, and wait until it has understood."""
        self._urgent += 1
        if self._ledger is not None:
            self._ledger.urgent += 1
        self._notify()
        try:
            await self._client.interrupt()
        finally:
            self._urgent -= 1
            if self._ledger is not None:
                self._ledger.urgent -= 1

    async def aclose(self) -> None:
        """Stop reading. Who waits is told."""
        await cancel_and_wait(self._task)
        self._end = self._end or SandboxClosedError("The session was closed in mid-turn.")
        self._notify()

    async def _read(self) -> None:
        try:
            async for message, place in self._messages():
                self.heard_at = time.monotonic()
                self._waiting.append(Received(self.heard_at, message, place))
                self._notify()
                while len(self._waiting) >= MAX_WAITING and not self._urgent:
                    await self._change()
            self._end = AgentError("Claude Code ended without a result.", code="no_result")
        except Exception as error:  # noqa: BLE001 - raised to whoever reads
            self._end = error
        self._notify()

    async def _messages(self) -> AsyncGenerator[tuple[SdkMessage, Placed | None]]:
        if self._ledger is None:
            async for message in self._client.receive_messages():
                yield message, None
            return
        async for data, message in sdk.received(self._client):
            yield message, data if isinstance(data, Placed) else None

    async def _change(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
