"""The guest's side of a channel: numbered streams, calls, and what was said of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from sandboxkit.guest import wire
from sandboxkit.guest.streams import Receiver, Sender

Json = dict[str, Any]

DETACHED_KEEP = wire.WINDOW // 2  # bytes of output kept while nobody is connected


class Output(Protocol):
    """Where frames go."""

    def put(self, data: bytes) -> None:
        """Queue frames for the host."""


class Client:
    """One host process, over as many connections as it takes."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.channels: dict[int, Channel] = {}
        self.output: Output | None = None

    def send(self, data: bytes) -> None:
        """Queue a frame; without a connection it is said again when there is one."""
        if self.output is not None:
            self.output.put(data)


def failure(code: str, message: str, number: int | None = None) -> Json:
    """The last word of a channel that failed."""
    return {"error": {"code": code, "message": message, "errno": number}}


class Channel:
    """One process or file operation, as one host sees it."""

    takes_input = True

    def __init__(self, client: Client, number: int, outputs: tuple[int, ...] = ()) -> None:
        self.client, self.number = client, number
        self._senders = {stream: Sender() for stream in outputs}
        self._marks: dict[str, str] = {}
        self._input = Receiver()
        self._unread: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._reply: Json | None = None
        self._done: Json | None = None
        self._call: tuple[int, Json | None] = (0, None)
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the last word has not been said."""
        return self._done is None

    # what it says

    def say_reply(self, value: Json) -> None:
        """It is under way."""
        self._reply = value
        self.client.send(wire.pack_json(wire.REPLY, self.number, value))

    def say_done(self, value: Json) -> None:
        """The last word; a second one is not heard."""
        if self._done is None:
            self._done = value
            self.client.send(wire.pack_json(wire.DONE, self.number, value))
            self._drop_input()
            self._changed.set()

    async def push(self, stream: int, data: bytes) -> None:
        """Write to the host, no faster than it takes; after the end, to nobody."""
        sender = self._senders[stream]
        while data and self._done is None:
            if sender.room == 0:
                self.overflow(sender)
            if sender.room == 0:
                await self._change()
                continue
            count = min(sender.room, wire.CHUNK)
            sender.write(data[:count])
            data = data[count:]
            self._send_unsent(stream, sender)

    def overflow(self, sender: Sender) -> None:
        """The host is a window behind: by default it is waited for."""

    def end(self, stream: int) -> None:
        """End a stream towards the host."""
        self._senders[stream].eof = True
        self._send_unsent(stream, self._senders[stream])

    def _send_unsent(self, stream: int, sender: Sender) -> None:
        if self.client.output is None:
            return
        for offset, data in sender.unsent():
            self.client.send(wire.pack(wire.DATA, self.number, data, stream, offset))
        if sender.eof and not sender.eof_sent:
            sender.eof_sent = True
            self.client.send(wire.pack(wire.EOF, self.number, b"", stream, sender.end))

    # what it hears

    async def read(self) -> bytes:
        """The next piece of input; empty at its end."""
        while not self._unread and not self._input.ended:
            await self._change()
        data = self._unread.popleft() if self._unread else b""
        self._consumed(len(data))
        return data

    def on_frame(self, frame: wire.Frame) -> None:
        """Take a frame of the host's."""
        if frame.kind == wire.DATA:
            fresh = self._input.accept(frame.offset, frame.payload)
            if fresh:
                self._unread.append(fresh)
            if self._done is not None:
                self._drop_input()
        elif frame.kind == wire.EOF:
            self._input.end(frame.offset)
        elif frame.kind == wire.ACK:
            self._senders[frame.stream].ack(frame.offset)
            if frame.payload:
                self._marks[str(frame.stream)] = frame.payload.decode("utf-8", "replace")
        elif frame.kind == wire.CALL:
            self._on_call(frame.offset, frame.json())
        else:
            raise wire.WireError("an unknown frame")
        self._changed.set()

    def _on_call(self, number: int, value: Json) -> None:
        last, answer = self._call
        if number > last:
            self._call = (number, None)
            self.call(value)
        elif answer is not None:
            self.client.send(wire.pack_json(wire.RETURN, self.number, answer, number))

    def call(self, value: Json) -> None:
        """Do what a call asks for."""
        self.say_return(failure("unknown_call", f"this channel does not take {value!r}"))

    def say_return(self, value: Json) -> None:
        """Answer the last call."""
        number = self._call[0]
        self._call = (number, value)
        self.client.send(wire.pack_json(wire.RETURN, self.number, value, number))

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _consumed(self, count: int) -> None:
        if self._input.consume(count):
            self._acknowledge()

    def _acknowledge(self) -> None:
        offset = self._input.acknowledge()
        self.client.send(wire.pack(wire.ACK, self.number, b"", wire.STDIN, offset))

    def _drop_input(self) -> None:
        self._consumed(sum(map(len, self._unread)))
        self._unread.clear()

    # connections, and the end

    def progress(self) -> dict[str, int]:
        """How far the input has been received."""
        return {str(wire.STDIN): self._input.received}

    def resume(self, received: Mapping[str, Any]) -> None:
        """On a new connection: say again what the host has not received."""
        if self._reply is not None:
            self.client.send(wire.pack_json(wire.REPLY, self.number, self._reply))
        for stream, sender in self._senders.items():
            sender.rewind(max(sender.acked, int(received.get(str(stream), 0))))
            self._send_unsent(stream, sender)
        if self.takes_input:
            self._acknowledge()
        number, answer = self._call
        if answer is not None:
            self.client.send(wire.pack_json(wire.RETURN, self.number, answer, number))
        if self._done is not None:
            self.client.send(wire.pack_json(wire.DONE, self.number, self._done))

    def close(self) -> None:
        """The host forgets it: end what runs in it."""
        self._done = self._done or {}
        self._changed.set()
        if self._task is not None:
            self._task.cancel()

    async def settled(self, within_s: float) -> None:
        """Wait for the last word, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._done is None:
                    await self._change()
