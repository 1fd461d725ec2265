"""Frames: what crosses the one connection between host and guest.

Shared by both sides; standard library only, Python 3.8. docs/protocol.md is the
reference.
"""

from __future__ import annotations

import binascii
import json
import struct
from typing import Any, Dict, List, NamedTuple, cast

PROTOCOL = 1
GREETING = b"sandboxkit-guest 1\n"
ENDED = b"sandboxkit-ended "  # instead of it, and why, where the guest has ended on purpose

HELLO = 1  # host: who I am, what I have received
WELCOME = 2  # guest: who I am, what I have received
OPEN = 3  # host, or guest for an accepted connection: a new channel
REPLY = 4  # guest: the channel is under way
DONE = 5  # guest: the channel's final word; kept until CLOSE
DATA = 6  # both: bytes of a stream, at an offset
EOF = 7  # both: the stream ends at this offset
ACK = 8  # both: the reader has consumed the stream up to this offset
CALL = 9  # host: do something with a channel; `offset` is the call's number
RETURN = 10  # guest: the answer to that call
CLOSE = 11  # host: forget the channel, and end what still runs in it
LEASE = 12  # host: I live; the guest echoes it, with how long the sandbox is held
BYE = 13  # host: I leave; what is not detached ends; the guest echoes it

STDIN = 0  # towards the sandbox
STDOUT = 1
STDERR = 2

WINDOW = 1024 * 1024  # unacknowledged bytes in a stream
CHUNK = 256 * 1024  # bytes in a DATA frame, at most
MAX_FRAME = 2 * 1024 * 1024  # bytes of a frame's payload that a reader accepts
GUEST_CHANNELS = 0x80000000  # ids from here on are given by the guest

_HEADER = struct.Struct(">IBBIQ")  # payload length, kind, stream, channel, offset
_MARK = b"~sk~"  # starts each line of the text encoding, so that foreign lines are skipped
_LINE_BYTES = 24 * 1024


class WireError(Exception):
    """The bytes are not frames."""


class Frame(NamedTuple):
    kind: int
    stream: int
    channel: int
    offset: int
    payload: bytes

    def json(self) -> Dict[str, Any]:
        try:
            value = json.loads(self.payload)
        except (ValueError, RecursionError) as error:
            raise WireError("a frame's payload is not JSON") from error
        if not isinstance(value, dict):
            raise WireError("a frame's payload is not a JSON object")
        return cast("Dict[str, Any]", value)


def header(length: int, kind: int, channel: int, stream: int = 0, offset: int = 0) -> bytes:
    return _HEADER.pack(length, kind, stream, channel, offset)


def pack(
    kind: int, channel: int = 0, payload: bytes = b"", stream: int = 0, offset: int = 0
) -> bytes:
    return _HEADER.pack(len(payload), kind, stream, channel, offset) + payload


def pack_json(kind: int, channel: int, value: Dict[str, Any], offset: int = 0) -> bytes:
    return pack(kind, channel, json.dumps(value, separators=(",", ":")).encode(), 0, offset)


class Decoder:
    """Bytes to frames, for the encoding `binary`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> List[Frame]:
        buffer = self._buffer
        buffer += data
        frames: List[Frame] = []
        position, size = 0, len(buffer)
        with memoryview(buffer) as view:
            while size - position >= _HEADER.size:
                length, kind, stream, channel, offset = _HEADER.unpack_from(view, position)
                if length > MAX_FRAME:
                    raise WireError("a frame of %d bytes is larger than allowed" % length)
                end = position + _HEADER.size + length
                if end > size:
                    break
                payload = bytes(view[position + _HEADER.size : end])
                frames.append(Frame(kind, stream, channel, offset, payload))
                position = end
        del buffer[:position]
        return frames


class LineDecoder(Decoder):
    """Lines to frames, for the encoding `text_lines`."""

    def __init__(self) -> None:
        super().__init__()
        self._partial = b""

    def feed(self, data: bytes) -> List[Frame]:
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        if len(self._partial) > 2 * MAX_FRAME:
            raise WireError("a line is longer than allowed")
        frames: List[Frame] = []
        for line in lines:
            if line.startswith(_MARK):
                try:
                    raw = binascii.a2b_base64(line[len(_MARK) :])
                except binascii.Error as error:
                    raise WireError("a line is not base64") from error
                frames += super().feed(raw)
        return frames


def to_lines(data: bytes) -> bytes:
    """Frames as lines of the text encoding."""
    pieces = (data[at : at + _LINE_BYTES] for at in range(0, len(data), _LINE_BYTES))
    return b"".join(_MARK + binascii.b2a_base64(piece) for piece in pieces)
