"""How an answer goes out: its pace and its faults."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from sandboxkit.testing.scripted_model import wire
from sandboxkit.testing.scripted_model.steps import Failure, Reply

if TYPE_CHECKING:
    from sandboxkit.testing.scripted_model.http import Connection
    from sandboxkit.testing.scripted_model.request import ModelRequest


class Answer:
    """One answer under way.

    Attributes:
        request: What was asked.
        events: How many events have been sent.
    """

    def __init__(self, request: ModelRequest, connection: Connection) -> None:
        self.request = request
        self.events = 0
        self._connection = connection

    async def give(self, reply: Reply | Failure) -> None:
        """Send the answer. One that stalls does not return: it is cancelled."""
        if isinstance(reply, Failure):
            await refuse(self._connection, reply)
            return
        await anyio.sleep(reply.delay_s)
        if self.request.stream:
            await self._stream(reply)
        elif reply.stall_after_events is not None:
            await anyio.sleep(math.inf)
        elif reply.drop_after_events is not None:
            self._connection.keep_alive = False
        else:
            whole = wire.message(reply, model=self.request.model)
            await self._connection.respond(200, wire.encode(whole))

    async def _stream(self, reply: Reply) -> None:
        for event in wire.events(reply, model=self.request.model):
            if await self._cut(reply):
                return
            if self.events == 0:  # the head goes with the first event: 0 events are 0 bytes
                await self._connection.start_stream({"content-type": "text/event-stream"})
            else:
                await anyio.sleep(reply.pause_s)
            await self._connection.send_chunk(event)
            self.events += 1
            if self.events == reply.fail_after_events:
                await self._connection.send_chunk(wire.error_event(reply.failure))
                await self._connection.end_stream()
                return
        if not await self._cut(reply):
            await self._connection.end_stream()

    async def _cut(self, reply: Reply) -> bool:
        """Whether the answer is dropped here; one that stalls here stays."""
        if self.events == reply.stall_after_events:
            await anyio.sleep(math.inf)
        if self.events == reply.drop_after_events:
            self._connection.keep_alive = False
            return True
        return False


async def refuse(connection: Connection, failure: Failure) -> None:
    """Answer with an error."""
    body, headers = wire.error(failure)
    await connection.respond(failure.status, body, headers)
