"""Streams: numbered, acknowledged, and taken up again after any loss of the connection."""

from __future__ import annotations

import random

import pytest

from sandboxkit.guest import wire
from sandboxkit.guest.streams import Receiver, Sender
from sandboxkit.guest.wire import WINDOW, Decoder, Frame, LineDecoder, WireError

SEEDS = range(60)


class Line:
    """A connection that can break: what was on its way is then lost."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.text = isinstance(decoder, LineDecoder)
        self.wire = bytearray()

    def send(self, sender: Sender) -> None:
        frames = [wire.pack(wire.DATA, 1, data, 1, offset) for offset, data in sender.unsent()]
        if sender.eof and not sender.eof_sent:
            sender.eof_sent = True
            frames.append(wire.pack(wire.EOF, 1, b"", 1, sender.end))
        data = b"".join(frames)
        self.wire += wire.to_lines(data) if self.text else data

    def deliver(self, count: int) -> list[Frame]:
        data = bytes(self.wire[:count])
        del self.wire[:count]
        return self.decoder.feed(data)


@pytest.mark.parametrize("make", [Decoder, LineDecoder])
@pytest.mark.parametrize("seed", SEEDS)
def test_all_arrives_once_and_in_order_whatever_is_cut(make: type[Decoder], seed: int) -> None:
    rng = random.Random(seed)
    content = rng.randbytes(rng.choice([0, 1, 5000, 3 * WINDOW]))
    sender, receiver, line = Sender(), Receiver(), Line(make())
    written, got, owed = 0, bytearray(), 0
    while not receiver.ended:
        count = min(sender.room, rng.randrange(1, wire.CHUNK), len(content) - written)
        if count:
            sender.write(content[written : written + count])
            written += count
        sender.eof = written == len(content)
        line.send(sender)
        for frame in line.deliver(rng.randrange(1, 2 * wire.CHUNK)):
            if frame.kind == wire.EOF:
                receiver.end(frame.offset)
                continue
            fresh = receiver.accept(frame.offset, frame.payload)
            got += fresh
            owed += len(fresh)
        taken = rng.randrange(owed + 1)
        owed -= taken
        if receiver.consume(taken):
            sender.ack(receiver.acknowledge())
        if rng.random() < 0.1:  # the connection breaks; a new one takes it up
            line = Line(make())
            sender.rewind(max(sender.acked, receiver.received))
            sender.ack(receiver.acknowledge())
        assert sender.end - sender.acked <= WINDOW
    assert bytes(got) == content
    assert receiver.lost == 0


def test_the_window_is_the_most_that_is_kept() -> None:
    sender = Sender()
    sender.write(bytes(WINDOW))
    assert sender.room == 0
    sender.ack(10)
    assert sender.room == 10


def test_a_receiver_refuses_more_than_the_window() -> None:
    receiver = Receiver()
    receiver.accept(0, bytes(WINDOW))
    with pytest.raises(WireError, match="overrun"):
        receiver.accept(WINDOW, b"x")


def test_what_came_twice_is_dropped() -> None:
    receiver = Receiver()
    assert receiver.accept(0, b"abcd") == b"abcd"
    assert receiver.accept(0, b"abcd") == b""
    assert receiver.accept(2, b"cdef") == b"ef"
    assert receiver.received == 6


def test_acknowledgements_come_in_steps() -> None:
    receiver = Receiver()
    receiver.accept(0, bytes(WINDOW // 2))
    assert not receiver.consume(WINDOW // 4 - 1)
    assert receiver.consume(1)
    assert receiver.acknowledge() == WINDOW // 4
    assert not receiver.consume(1)


def test_what_nobody_took_is_dropped_from_its_beginning_and_counted() -> None:
    sender, receiver = Sender(), Receiver()
    for number in range(10):
        sender.write(bytes([number]) * 100)
    sender.drop_oldest(250)
    assert sender.taken == 0
    pieces = sender.unsent()
    assert pieces[0] == (800, b"\x08" * 100)
    assert [receiver.accept(offset, data) for offset, data in pieces] == [
        b"\x08" * 100,
        b"\x09" * 100,
    ]
    assert receiver.lost == 800


def test_another_reader_begins_where_the_last_one_stopped() -> None:
    sender, second = Sender(), Receiver()
    sender.write(b"one")
    sender.write(b"two")
    sender.unsent()
    sender.ack(3)
    sender.rewind(sender.acked)
    second.begin(sender.taken)
    assert [second.accept(*piece) for piece in sender.unsent()] == [b"two"]
    assert second.lost == 0
    writer = Sender()
    writer.begin(6)
    writer.write(b"x")
    assert writer.unsent() == [(6, b"x")]


@pytest.mark.parametrize(("offset", "data"), [(2**63, b""), (2**63 - 1, b"ab"), (2**64 - 1, b"a")])
def test_an_offset_that_cannot_be_is_refused(offset: int, data: bytes) -> None:
    with pytest.raises(WireError, match="larger"):
        Receiver().accept(offset, data)


def test_a_stream_ends_once() -> None:
    receiver = Receiver()
    receiver.accept(0, b"abc")
    with pytest.raises(WireError, match="before its end"):
        receiver.end(2)
    receiver.end(3)
    receiver.end(3)  # said again on a new connection
    assert receiver.accept(0, b"abc") == b""
    with pytest.raises(WireError, match="after its end"):
        receiver.accept(3, b"d")
    with pytest.raises(WireError, match="after its end"):
        receiver.end(4)


def test_an_end_beyond_what_came_counts_the_loss() -> None:
    receiver = Receiver()
    receiver.end(7)
    assert (receiver.lost, receiver.ended) == (7, True)


def test_acknowledging_what_was_not_written_is_refused() -> None:
    sender = Sender()
    sender.write(b"abc")
    with pytest.raises(WireError, match="ahead"):
        sender.ack(4)


@pytest.mark.parametrize("offset", [1, 7])
def test_a_reader_cannot_ask_for_what_is_not_kept(offset: int) -> None:
    sender = Sender()
    sender.write(b"abc")
    sender.write(b"def")
    sender.ack(3)
    with pytest.raises(WireError, match="no longer kept"):
        sender.rewind(offset)
