"""Frames and their two encodings: bytes in, the same frames out, whatever way they are cut."""

from __future__ import annotations

import json
import random
import struct

import pytest

from sandboxkit.guest import wire
from sandboxkit.guest.wire import Decoder, Frame, LineDecoder, WireError

SEEDS = range(40)


def some_frames(rng: random.Random) -> list[Frame]:
    sizes = (0, 1, 19, 300, 24 * 1024, 70_000)
    return [
        Frame(
            rng.randrange(1, 14),
            rng.randrange(3),
            rng.randrange(2**32),
            rng.randrange(2**63),
            rng.randbytes(rng.choice(sizes)),
        )
        for _ in range(rng.randrange(1, 8))
    ]


def packed(frames: list[Frame]) -> bytes:
    return b"".join(
        wire.pack(frame.kind, frame.channel, frame.payload, frame.stream, frame.offset)
        for frame in frames
    )


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def decoded(decoder: Decoder, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in decoder.feed(piece)]


def test_a_frame_is_laid_out_as_documented() -> None:
    data = wire.pack(wire.DATA, 7, b"abc", wire.STDERR, 5)
    assert data == struct.pack(">IBBIQ", 3, 6, 2, 7, 5) + b"abc"
    assert wire.header(3, wire.DATA, 7, wire.STDERR, 5) + b"abc" == data


@pytest.mark.parametrize("seed", SEEDS)
def test_binary_frames_survive_any_cuts(seed: int) -> None:
    rng = random.Random(seed)
    frames = some_frames(rng)
    assert decoded(Decoder(), cut(rng, packed(frames))) == frames


@pytest.mark.parametrize("seed", SEEDS)
def test_lines_survive_any_cuts_and_foreign_lines(seed: int) -> None:
    rng = random.Random(seed)
    frames = some_frames(rng)
    text = wire.to_lines(packed(frames))
    assert text.isascii()
    assert max(map(len, text.splitlines())) < 33_000
    noise = [b"", b"Welcome to Debian", b"~ $ ls", b"\xff\x00" * rng.randrange(2000)]
    lines = text.splitlines(keepends=True)
    for _ in range(rng.randrange(5)):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(noise) + b"\n")
    if rng.random() < 0.3:
        lines = [line.replace(b"\n", b"\r\n") for line in lines]
    assert decoded(LineDecoder(), cut(rng, b"".join(lines))) == frames


def test_byte_by_byte() -> None:
    frames = [Frame(wire.DATA, 1, 3, 9, b"hello"), Frame(wire.EOF, 1, 3, 14, b"")]
    assert decoded(Decoder(), [bytes([b]) for b in packed(frames)]) == frames
    text = wire.to_lines(packed(frames))
    assert decoded(LineDecoder(), [bytes([b]) for b in text]) == frames


def test_the_largest_frame_is_taken_and_a_larger_one_is_not() -> None:
    payload = bytes(wire.MAX_FRAME)
    assert Decoder().feed(wire.pack(wire.DATA, 1, payload))[0].payload == payload
    with pytest.raises(WireError, match="larger than allowed"):
        Decoder().feed(wire.header(wire.MAX_FRAME + 1, wire.DATA, 1))


def test_a_line_that_never_ends_is_refused() -> None:
    pieces = [b"x" * 65536] * 100
    with pytest.raises(WireError, match="longer than allowed"):
        decoded(LineDecoder(), pieces)


def test_a_line_that_is_not_base64_is_refused() -> None:
    with pytest.raises(WireError, match="not base64"):
        LineDecoder().feed(wire.to_lines(b"abcdef")[:5] + b"A\n")


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"nul", b"[1]", b'"text"', b"{", b"[" * 200_000, b'{"a":' * 100_000],
    ids=lambda payload: repr(payload[:8]),
)
def test_a_payload_that_is_not_an_object_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError, match="not"):
        Frame(wire.DONE, 0, 1, 0, payload).json()


def test_json_frames() -> None:
    value = {"text": "\udcff\n", "number": 2**70, "none": None}
    frame = Decoder().feed(wire.pack_json(wire.CALL, 4, value, 12))[0]
    assert (frame.kind, frame.channel, frame.offset) == (wire.CALL, 4, 12)
    assert frame.json() == value == json.loads(frame.payload)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [Decoder, LineDecoder])
def test_garbage_gives_frames_or_a_wire_error(make: type[Decoder], seed: int) -> None:
    rng = random.Random(seed)
    decoder = make()
    data = rng.randbytes(50_000)
    if make is LineDecoder:
        data = wire.to_lines(data) + data
    try:
        for piece in cut(rng, data):
            for frame in decoder.feed(piece):
                assert len(frame.payload) <= wire.MAX_FRAME
    except WireError:
        return
