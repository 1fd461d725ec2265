"""A channel: one process, file transfer or tunnel, as one host sees it.

All its state is here, so that a new connection can take it up where the old one
broke: what was sent is kept until acknowledged, what was said is said again.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, List, Optional, Set, Tuple

from . import wire
from .loop import Loop, Watch, read_some
from .streams import Receiver, Sender

if TYPE_CHECKING:
    from .link import Link

MAX_CHANNELS = 4096  # of one client
_MAX_MESSAGE = 2000  # characters
_RETURN_S = 3.0  # for a host whose connection was lost to come back
_SILENCE_S = 30.0  # after which a host that says nothing is taken for dead; it speaks each 10 s
_INT = struct.Struct("i")


def failure(code: str, message: str, number: Optional[int] = None) -> Dict[str, Any]:
    clipped = message[:_MAX_MESSAGE]  # it may quote a path or an argument of any length
    return {"error": {"code": code, "message": clipped, "errno": number}}


class Client:
    """One host process, over however many connections it needs."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.link: Optional[Link] = None
        self.channels: Dict[int, Channel] = {}
        self.stalled: Set[Source] = set()
        self.deadline = 0.0  # when its lease ends, on the monotonic clock
        self.accepted_at = 0.0  # the last connection to one of its listeners, likewise
        self.name = ""  # as it calls itself
        self.heard = time.monotonic()  # when it said anything, or its connection was lost
        self._silence_s = _SILENCE_S
        self._guest_ids = wire.GUEST_CHANNELS

    def new_id(self) -> int:
        self._guest_ids += 1
        return self._guest_ids

    def send(self, *buffers: bytes) -> None:
        if self.link is not None:
            self.link.send(*buffers)

    def renew(self, lease_s: float) -> None:
        self.deadline = time.monotonic() + lease_s
        self._silence_s = min(lease_s / 2, _SILENCE_S)

    @property
    def gone(self) -> bool:
        """Whether it seems to be dead: what it holds may be taken by another host."""
        silent_s = time.monotonic() - self.heard
        return silent_s > (_RETURN_S if self.link is None else self._silence_s)

    def may_read(self) -> bool:
        return self.link is None or not self.link.busy

    def drained(self) -> None:
        stalled, self.stalled = self.stalled, set()
        for source in stalled:
            source.resume()


class Channel:
    """Subclasses override what happens; this keeps what was said."""

    outputs: Tuple[int, ...] = ()  # streams towards the host
    inputs: Tuple[int, ...] = ()  # streams towards the sandbox
    passive = False  # does not count as activity (a listener, an agent that waits)

    def __init__(self, client: Client, number: int, loop: Loop) -> None:
        self.client = client
        self.number = number
        self.loop = loop
        self.senders = {stream: Sender() for stream in self.outputs}
        self.receivers = {stream: Receiver() for stream in self.inputs}
        self.sources: Dict[int, Source] = {}
        self.sinks: Dict[int, Sink] = {}
        self.opened: Optional[Dict[str, Any]] = None  # for channels that the guest opens
        self.reply: Optional[Dict[str, Any]] = None
        self.done: Optional[Dict[str, Any]] = None
        self.answer: Tuple[int, Optional[Dict[str, Any]]] = (0, None)  # to the last call

    @property
    def busy(self) -> bool:
        """Whether it counts as activity now."""
        return not self.passive and self.done is None

    # what the guest says

    def say_reply(self, value: Dict[str, Any]) -> None:
        self.reply = value
        self.client.send(wire.pack_json(wire.REPLY, self.number, value))

    def say_done(self, value: Dict[str, Any]) -> None:
        if self.done is None:
            self.done = value
            self.client.send(wire.pack_json(wire.DONE, self.number, value))

    def push(self, stream: int, data: bytes) -> None:
        sender = self.senders[stream]
        sender.write(data)
        self._send_unsent(stream, sender)

    def end(self, stream: int) -> None:
        sender = self.senders[stream]
        sender.eof = True
        self._send_unsent(stream, sender)

    def room(self, stream: int) -> int:
        return self.senders[stream].room

    def _send_unsent(self, stream: int, sender: Sender) -> None:
        if self.client.link is None:
            return
        for offset, data in sender.unsent():
            self.client.send(wire.header(len(data), wire.DATA, self.number, stream, offset), data)
        if sender.eof and not sender.eof_sent:
            sender.eof_sent = True
            self.client.send(wire.pack(wire.EOF, self.number, b"", stream, sender.end))

    # what the host says

    def on_data(self, stream: int, offset: int, data: bytes) -> None:
        receiver = self.receivers[stream]
        fresh = receiver.accept(offset, data)
        sink = self.sinks.get(stream)
        if sink is not None and fresh:
            sink.write(fresh)
        elif fresh:
            self.consumed(stream, len(fresh))

    def on_eof(self, stream: int, offset: int) -> None:
        receiver = self.receivers[stream]
        if not receiver.ended:
            receiver.end(offset)
            sink = self.sinks.get(stream)
            if sink is not None:
                sink.end()

    def consumed(self, stream: int, count: int) -> None:
        receiver = self.receivers[stream]
        if receiver.consume(count):
            self.acknowledge(stream)

    def acknowledge(self, stream: int) -> None:
        offset = self.receivers[stream].acknowledge()
        self.client.send(wire.pack(wire.ACK, self.number, b"", stream, offset))

    def on_ack(self, stream: int, offset: int, mark: bytes = b"") -> None:
        self.senders[stream].ack(offset)
        source = self.sources.get(stream)
        if source is not None:
            source.resume()

    def on_call(self, number: int, value: Dict[str, Any]) -> None:
        last, answer = self.answer
        if number > last:
            self.answer = (number, None)
            try:
                self.call(value)
            except Exception as error:  # noqa: BLE001 - the host must not wait for ever
                self.say_return(failure("failed", repr(error)))
        elif number == last and answer is not None:
            self.client.send(wire.pack_json(wire.RETURN, self.number, answer, number))

    def call(self, value: Dict[str, Any]) -> None:
        self.say_return(failure("unknown_call", "this channel takes no calls"))

    def say_return(self, value: Dict[str, Any]) -> None:
        number = self.answer[0]
        self.answer = (number, value)
        self.client.send(wire.pack_json(wire.RETURN, self.number, value, number))

    def abort(self, reset: bool = False) -> None:
        """The host forgets the channel: end what runs in it."""
        for source in self.sources.values():
            source.close()
        for sink in self.sinks.values():
            sink.close()

    # a new connection

    def resume(self, received: Dict[str, int]) -> None:
        """Say again what the host has not received, given how far it has."""
        if self.opened is not None:
            self.client.send(wire.pack_json(wire.OPEN, self.number, self.opened))
        if self.reply is not None:
            self.client.send(wire.pack_json(wire.REPLY, self.number, self.reply))
        for stream, sender in self.senders.items():
            sender.rewind(max(sender.acked, int(received.get(str(stream), 0))))
            self._send_unsent(stream, sender)
        for stream in self.receivers:
            self.acknowledge(stream)
        number, answer = self.answer
        if answer is not None:
            self.client.send(wire.pack_json(wire.RETURN, self.number, answer, number))
        if self.done is not None:
            self.client.send(wire.pack_json(wire.DONE, self.number, self.done))

    def progress(self) -> Dict[str, int]:
        """How far each stream towards the sandbox has been received."""
        return {str(stream): receiver.received for stream, receiver in self.receivers.items()}


class Taken(Channel):
    """In the place of what another host has taken: who held it is told, if it comes back."""

    inputs = (wire.STDIN,)
    outputs = (wire.STDOUT, wire.STDERR)
    passive = True

    def __init__(
        self, client: Client, number: int, loop: Loop, why: Optional[Dict[str, Any]] = None
    ) -> None:
        super().__init__(client, number, loop)
        self.say_done(why or failure("taken", "another host has taken it up"))

    def on_data(self, stream: int, offset: int, data: bytes) -> None:
        pass

    def on_eof(self, stream: int, offset: int) -> None:
        pass

    def on_ack(self, stream: int, offset: int, mark: bytes = b"") -> None:
        pass

    def resume(self, received: Dict[str, int]) -> None:
        if self.done is not None:
            self.client.send(wire.pack_json(wire.DONE, self.number, self.done))


class Refused(Channel):
    """What could not be started; what the host has sent after it is taken, and dropped."""

    inputs = (wire.STDIN,)
    outputs = (wire.STDOUT, wire.STDERR)


class Source:
    """Reads a descriptor into a stream of a channel, no faster than the host takes it."""

    def __init__(
        self, channel: Channel, stream: int, fd: int, on_end: Callable[[Optional[OSError]], None]
    ) -> None:
        os.set_blocking(fd, False)
        self._channel, self._stream, self._on_end = channel, stream, on_end
        self._watch = Watch(channel.loop, fd, on_readable=self._read)
        self.discarding = False
        channel.sources[stream] = self
        self._watch.want(read=True)

    @property
    def waiting(self) -> int:
        """Bytes that can be read at once."""
        if self._watch.closed:
            return 0
        try:
            answer = fcntl.ioctl(self._watch.fd, termios.FIONREAD, bytes(_INT.size))
        except OSError:
            return 0
        return int(_INT.unpack(answer)[0])

    def resume(self) -> None:
        if not self._watch.closed:
            self._watch.want(read=True)

    def discard(self) -> None:
        """Nobody listens any more: read on and drop, so that the writer is not held up."""
        self.discarding = True
        self.resume()

    def _read(self) -> None:
        room = wire.CHUNK if self.discarding else self._channel.room(self._stream)
        if not (self.discarding or self._channel.client.may_read()):
            self._channel.client.stalled.add(self)
            room = 0
        if room <= 0:
            self._watch.want(read=False)  # an acknowledgement, or a drained link, resumes it
            return
        broken: Optional[OSError] = None
        try:
            data = read_some(self._watch.fd, min(room, wire.CHUNK))
        except OSError as error:
            data, broken = b"", error
        if data is None:
            return
        if data:
            if not self.discarding:
                self._channel.push(self._stream, data)
            return
        self._watch.close()
        if not self.discarding:
            self._on_end(broken)

    def close(self) -> None:
        self._channel.client.stalled.discard(self)
        self._watch.close()


class Sink:
    """Writes a stream of a channel to a descriptor, as fast as that takes it."""

    def __init__(
        self,
        channel: Channel,
        stream: int,
        fd: int,
        on_end: Callable[[int], None],
        on_broken: Callable[[OSError], None],
    ) -> None:
        os.set_blocking(fd, False)
        self._channel, self._stream = channel, stream
        self._on_end, self._on_broken = on_end, on_broken
        self._pending: Deque[memoryview] = deque()
        self._ending = False
        self._watch = Watch(channel.loop, fd, on_writable=self._flush)
        channel.sinks[stream] = self

    def write(self, data: bytes) -> None:
        if self._watch.closed:
            self._channel.consumed(self._stream, len(data))
            return
        self._pending.append(memoryview(data))
        self._flush()

    def end(self) -> None:
        self._ending = True
        self._flush()

    def _flush(self) -> None:
        if self._watch.closed:
            return
        try:
            while self._pending:
                count = os.write(self._watch.fd, self._pending[0])
                rest = self._pending[0][count:]
                if rest:
                    self._pending[0] = rest
                else:
                    self._pending.popleft()
                self._channel.consumed(self._stream, count)
        except BlockingIOError:
            self._watch.want(write=True)
            return
        except OSError as error:
            # The reader has gone: what it did not read is of no use to anyone.
            dropped: List[memoryview] = list(self._pending)
            self.close()
            self._channel.consumed(self._stream, sum(map(len, dropped)))
            self._on_broken(error)
            return
        self._watch.want(write=False)
        if self._ending:
            self._ending = False
            self._on_end(self._watch.fd)

    def close(self) -> None:
        self._pending.clear()
        self._watch.close()
