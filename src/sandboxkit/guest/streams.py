"""One direction of one stream: numbered, kept until acknowledged, taken up again.

The same state machine serves both sides of the channel. It does no I/O.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, List, Tuple

from .wire import WINDOW, WireError

_LAST = 1 << 63  # an offset stays below it


class Sender:
    """The writing end: keeps what the reader has not acknowledged."""

    def __init__(self) -> None:
        self._kept: Deque[Tuple[int, bytes]] = deque()
        self.acked = 0  # consumed by the reader, or dropped, up to here
        self.taken = 0  # consumed by the reader up to here
        self.sent = 0  # sent over the present connection up to here
        self.end = 0  # written up to here
        self.eof = False
        self.eof_sent = False

    @property
    def room(self) -> int:
        """How many more bytes may be written before the reader must catch up."""
        return max(0, WINDOW - (self.end - self.acked))

    def write(self, data: bytes) -> None:
        self._kept.append((self.end, data))
        self.end += len(data)

    def unsent(self) -> List[Tuple[int, bytes]]:
        """What has not been sent over this connection, marked as sent now."""
        pieces: List[Tuple[int, bytes]] = []
        for offset, data in reversed(self._kept):
            if offset + len(data) <= self.sent:
                break
            skip = max(0, self.sent - offset)
            pieces.append((offset + skip, data[skip:]))
        self.sent = self.end
        pieces.reverse()
        return pieces

    def ack(self, offset: int) -> None:
        if offset > self.end:
            raise WireError("an acknowledgement is ahead of the stream")
        self.acked = max(self.acked, offset)
        self.taken = max(self.taken, offset)
        while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= self.acked:
            self._kept.popleft()

    def rewind(self, offset: int) -> None:
        """A new connection: the reader has received up to `offset`."""
        if not self.acked <= offset <= self.end:
            raise WireError("the reader asks for what is no longer kept")
        self.sent = offset
        self.eof_sent = False

    def drop_oldest(self, keep: int) -> None:
        """Lose the oldest bytes, so that at most `keep` are kept; the reader sees a gap."""
        while self._kept and self.end - self.acked > keep:
            offset, data = self._kept.popleft()
            self.acked = offset + len(data)
        self.sent = max(self.sent, self.acked)

    def begin(self, offset: int) -> None:
        """Take the stream up where an earlier writer has left it."""
        self.acked = self.taken = self.sent = self.end = offset


class Receiver:
    """The reading end: drops what came twice, says when to acknowledge."""

    def __init__(self) -> None:
        self.received = 0  # received up to here
        self.consumed = 0  # passed on up to here
        self.acked = 0  # acknowledged up to here
        self.lost = 0  # bytes that the writer had to drop
        self.ended = False

    def accept(self, offset: int, data: bytes) -> bytes:
        """The part of `data` that is new."""
        if offset + len(data) >= _LAST:
            raise WireError("an offset is larger than allowed")
        if self.ended and offset + len(data) > self.received:
            raise WireError("the stream goes on after its end")
        if offset > self.received:
            gap = offset - self.received
            self.lost += gap
            self.received += gap
            self.consumed += gap
        fresh = data[self.received - offset :] if offset < self.received else data
        self.received += len(fresh)
        if self.received - self.consumed > WINDOW:
            raise WireError("the writer has overrun the window")
        return fresh

    def end(self, offset: int) -> None:
        """The stream ends at `offset`."""
        if offset < self.received:
            raise WireError("the stream ends before its end")
        self.accept(offset, b"")
        self.ended = True

    def begin(self, offset: int) -> None:
        """Take the stream up where an earlier reader has left it."""
        self.received = self.consumed = self.acked = offset

    def consume(self, count: int) -> bool:
        """`count` bytes were passed on; whether it is time to acknowledge."""
        self.consumed += count
        return self.consumed - self.acked >= WINDOW // 4

    def acknowledge(self) -> int:
        self.acked = self.consumed
        return self.consumed
