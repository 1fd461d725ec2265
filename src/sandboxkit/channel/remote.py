"""One channel as the host sees it: a request, streams in both directions, an end."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio

from sandboxkit.errors import (
    ExecStartError,
    ProcessHeldError,
    ProcessTakenError,
    ProtocolError,
    SandboxClosedError,
    SandboxError,
)
from sandboxkit.guest import wire
from sandboxkit.guest.streams import Receiver, Sender

if TYPE_CHECKING:
    from sandboxkit.channel.client import GuestClient

Sink = Callable[[int, bytes], None]

_STREAMS = {str(stream): stream for stream in (wire.STDIN, wire.STDOUT, wire.STDERR)}


_TAKEN = "Another host has taken this process up while this one was away."


class GuestError(NamedTuple):
    """Why the guest could not do what was asked."""

    code: str
    message: str
    errno: int | None


class RemoteChannel:
    """The state of one channel. It survives the loss of a connection.

    Args:
        client: The client that it belongs to.
        number: Its id, unique for the client.
        request: What was asked for; None if the guest opened it.
        inputs: The streams towards the sandbox.
        outputs: The streams towards the host.
        sink: Gets the output as it comes; without one, it waits for `receive`.
    """

    def __init__(
        self,
        client: GuestClient,
        number: int,
        request: Mapping[str, Any] | None,
        *,
        inputs: Sequence[int] = (),
        outputs: Sequence[int] = (),
        sink: Sink | None = None,
    ) -> None:
        self._client = client
        self.number = number
        self.request = request
        self._adopts = self.request_is("adopt")
        self._lasting = self._adopts or bool(request is not None and request.get("detach"))
        self.senders = {stream: Sender() for stream in inputs}
        self.receivers = {stream: Receiver() for stream in outputs}
        self._buffers: dict[int, deque[bytes | memoryview]] = {
            stream: deque() for stream in outputs
        }
        self._sink = sink
        self._marks: dict[int, bytes] = {}  # of streams that are acknowledged by hand
        self._waiters: list[asyncio.Future[None]] = []
        self._write_lock = anyio.Lock()
        self._call_lock = anyio.Lock()
        self._call_number = 0
        self._call: Mapping[str, Any] | None = None
        self._answers: dict[int, Mapping[str, Any]] = {}
        self.reply: Mapping[str, Any] | None = None
        self.done: Mapping[str, Any] | None = None
        self.failure: SandboxError | None = None
        self.closed = False
        self.begins: dict[int, int] = {}  # where the streams of an adopted process go on

    def request_is(self, op: str) -> bool:
        """Whether this was asked for."""
        return self.request is not None and self.request.get("op") == op

    # waiting

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready()` holds.

        Raises:
            SandboxError: The channel failed before it did.
        """
        while not ready():
            if self.failure is not None:
                raise copy.copy(self.failure)
            if self.closed:
                raise SandboxClosedError("it was let go of while it was waited for")
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def started(self) -> Mapping[str, Any]:
        """The guest's first word on the channel.

        Raises:
            ExecStartError: It could not be started.
        """
        await self.until(lambda: not (self.reply is None and self.done is None))
        if self.reply is None:
            self.raise_error()
        return self.reply or {}

    async def finished(self) -> Mapping[str, Any]:
        """The guest's last word on the channel; an error in it is returned, not raised."""
        await self.until(lambda: self.done is not None)
        return self.done or {}

    @property
    def error(self) -> GuestError | None:
        """The error in the guest's last word, if there is one."""
        found: object = (self.done or {}).get("error")
        if not isinstance(found, dict):
            return None
        fields = cast("dict[str, object]", found)
        number = fields.get("errno")
        return GuestError(
            code=str(fields.get("code")),
            message=str(fields.get("message")),
            errno=number if isinstance(number, int) else None,
        )

    def raise_error(self) -> None:
        """Raise the error in the last word, if there is one, as a start that failed."""
        error = self.error
        if error is not None and error.code == "taken":
            raise ProcessTakenError(_TAKEN)
        if error is not None and error.code == "held":
            done = self.done or {}
            silent_s: object = done.get("silent_s")
            raise ProcessHeldError(
                error.message,
                connected=done.get("connected") is not False,
                silent_s=silent_s if isinstance(silent_s, int | float) else 0.0,
                op="process",
            )
        if error is not None:
            raised = ExecStartError(error.message, code=error.code, op="exec")
            raised.errno = error.errno
            raise raised

    def ended(self, *streams: int) -> bool:
        """Whether all these output streams have ended."""
        return all(self.receivers[stream].ended for stream in streams)

    def has_all_output(self) -> bool:
        """Whether all that was written before the process's end has come."""
        written = _offsets((self.done or {}).get("output"))
        return all(self.receivers[s].received >= written.get(s, 0) for s in self.receivers)

    # towards the sandbox

    async def write(self, stream: int, data: bytes | memoryview) -> None:
        """Send `data`; waits while the reader is a window behind.

        What is written after the channel's end is dropped, as by a pipe without reader.
        """
        sender = self.senders[stream]
        view = memoryview(data)
        async with self._write_lock:
            while view:
                await self.until(lambda: sender.room > 0 or self.done is not None or self.closed)
                if isinstance(self.failure, ProcessTakenError):
                    raise copy.copy(self.failure)
                if self.done is not None or self.closed or sender.eof:
                    return
                if self.failure is not None:
                    raise copy.copy(self.failure)
                count = min(sender.room, wire.CHUNK)
                sender.write(bytes(view[:count]))
                view = view[count:]
                self._send_unsent(stream)

    def write_eof(self, stream: int) -> None:
        """End the stream; a second call does nothing."""
        self.senders[stream].eof = True
        self._send_unsent(stream)

    def _begin(self, reply: Mapping[str, Any]) -> None:
        """Take the streams of an adopted process up where the last host has left them."""
        self.begins = offsets = _offsets(reply.get("offsets"))
        for stream, receiver in self.receivers.items():
            receiver.begin(offsets.get(stream, 0))
        for stream, sender in self.senders.items():
            sender.begin(offsets.get(stream, 0))
            sender.eof = sender.eof_sent = stream not in offsets
        marks: object = reply.get("marks")
        for stream in self._marks if isinstance(marks, dict) else ():
            mark = cast("dict[str, object]", marks).get(str(stream))
            self._marks[stream] = mark.encode() if isinstance(mark, str) else b""

    def _send_unsent(self, stream: int) -> None:
        sender = self.senders[stream]
        if not self._client.connected or self.closed:
            return
        for offset, data in sender.unsent():
            head = wire.header(len(data), wire.DATA, self.number, stream, offset)
            self._client.send(head, data)
        if sender.eof and not sender.eof_sent:
            sender.eof_sent = True
            self._client.send(wire.pack(wire.EOF, self.number, b"", stream, sender.end))

    async def call(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the guest to do something with the channel; calls run one after another."""
        async with self._call_lock:
            self._call_number += 1
            number, self._call = self._call_number, value
            self._send_call()
            try:
                await self.until(lambda: number in self._answers or self.closed)
            finally:
                self._call = None
            return self._answers.pop(number, {})

    def _send_call(self) -> None:
        if self._call is not None and self._client.connected:
            self._client.send(
                wire.pack_json(wire.CALL, self.number, dict(self._call), self._call_number)
            )

    # from the sandbox

    async def receive(self, stream: int, max_bytes: int) -> bytes:
        """The next bytes of an output stream.

        Raises:
            anyio.EndOfStream: The stream has ended.
            SandboxError: The channel failed.
        """
        buffer, receiver = self._buffers[stream], self.receivers[stream]
        await self.until(lambda: bool(buffer) or receiver.ended or self.closed)
        if not buffer:
            raise anyio.EndOfStream
        data = buffer.popleft()
        if len(data) > max_bytes:
            view = memoryview(data)  # not copied again for each small piece
            buffer.appendleft(view[max_bytes:])
            data = view[:max_bytes]
        self._consumed(stream, len(data))
        return bytes(data)

    def by_hand(self, stream: int) -> None:
        """From now on, what is received of a stream is acknowledged by `acknowledge` alone."""
        self._marks[stream] = b""

    def mark(self, stream: int) -> str:
        """What the last acknowledgement by hand said, this host's or an earlier one's."""
        return self._marks.get(stream, b"").decode()

    def acknowledge(self, stream: int, offset: int, mark: str) -> None:
        """Say that all up to `offset` need not come again, to no host."""
        receiver = self.receivers[stream]
        receiver.consumed = max(receiver.consumed, min(offset, receiver.received))
        self._marks[stream] = mark.encode()
        if self._client.connected and not self.closed:
            self._send_ack(stream)

    def _send_ack(self, stream: int) -> None:
        mark = self._marks.get(stream, b"")
        offset = self.receivers[stream].acknowledge()
        self._client.send(wire.pack(wire.ACK, self.number, mark, stream, offset))

    def _consumed(self, stream: int, count: int) -> None:
        if stream in self._marks:
            return
        receiver = self.receivers[stream]
        if receiver.consume(count) and self._client.connected:
            self._send_ack(stream)

    def on_frame(self, frame: wire.Frame) -> None:
        """Take a frame of the guest's.

        Raises:
            ProtocolError: The protocol does not allow it.
        """
        if frame.kind == wire.DATA and frame.stream in self.receivers:
            self._on_data(frame)
        elif frame.kind == wire.EOF and frame.stream in self.receivers:
            self.receivers[frame.stream].end(frame.offset)
        elif frame.kind == wire.ACK and frame.stream in self.senders:
            self.senders[frame.stream].ack(frame.offset)
        elif frame.kind == wire.REPLY:
            self._on_reply(frame.json())
        elif frame.kind == wire.DONE:
            self.done = self.done or frame.json()  # the first word holds; it is said again
            if self.error is not None and self.error.code == "taken":
                self.fail(ProcessTakenError(_TAKEN))
        elif frame.kind == wire.RETURN:
            if frame.offset == self._call_number and self._call is not None:
                self._answers[frame.offset] = frame.json()
        else:
            raise ProtocolError(f"the guest sent an unexpected frame of kind {frame.kind}")
        self._notify()

    def _on_reply(self, reply: Mapping[str, Any]) -> None:
        if self.reply is None:
            if self._adopts:
                self._begin(reply)
            self.reply = reply

    def _on_data(self, frame: wire.Frame) -> None:
        fresh = self.receivers[frame.stream].accept(frame.offset, frame.payload)
        if not fresh:
            return
        if self._sink is None:
            self._buffers[frame.stream].append(fresh)
        else:
            self._sink(frame.stream, fresh)
            self._consumed(frame.stream, len(fresh))

    # connections, and the end

    def progress(self) -> dict[str, int]:
        """How far each output stream has been received."""
        return {str(stream): receiver.received for stream, receiver in self.receivers.items()}

    def resume(self, received: Mapping[str, Any] | None) -> None:
        """On a new connection: send again what the guest has not received.

        Args:
            received: How far the guest has received each stream; None if it has never
                seen the channel.
        """
        if received is None and self.request is not None:
            self._client.send(wire.pack_json(wire.OPEN, self.number, dict(self.request)))
        offsets = _offsets(received)
        for stream, sender in self.senders.items():
            if self._adopts and self.reply is None:
                break  # nothing was sent, and where to begin is not known yet
            sender.rewind(max(sender.acked, offsets.get(stream, 0)))
            self._send_unsent(stream)
        self._send_call()
        for stream in self.receivers:
            # An acknowledgement may have been lost with the old connection.
            self._send_ack(stream)

    def settle(self) -> None:
        """Acknowledge all that was taken, so that who adopts the process begins there."""
        for stream, receiver in self.receivers.items():
            if self._lasting and self._client.connected and receiver.consumed > receiver.acked:
                self._send_ack(stream)

    def fail(self, error: SandboxError) -> None:
        """The channel cannot go on; all who wait on it are told."""
        if self.failure is None and not self.closed:
            self.failure = error
            self._notify()

    def close(self, *, reset: bool = False) -> None:
        """Forget the channel; the guest ends what still runs in it. Idempotent."""
        if not self.closed:
            self.settle()
            self.closed = True
            self._client.forget(self, reset=reset)
            self._notify()


def _offsets(value: object) -> dict[int, int]:
    """Offsets by stream, as the guest says them.

    Raises:
        ProtocolError: It says something else.
    """
    if value is None:
        return {}
    found: dict[int, int] = {}
    if not isinstance(value, dict):
        raise ProtocolError("the guest sent offsets that are not a JSON object")
    for stream, offset in cast("dict[str, object]", value).items():
        if stream not in _STREAMS or type(offset) is not int or offset < 0:
            raise ProtocolError(f"the guest sent {offset!r} as the offset of stream {stream!r}")
        found[_STREAMS[stream]] = offset
    return found
