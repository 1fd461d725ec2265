"""Output that may be long: its head and its tail are kept, and what is missing is said."""

from __future__ import annotations


class Excerpt:
    """Takes bytes as they come; holds at most a little more than `limit` of them.

    Args:
        limit: Bytes to keep: the first half and the last half.

    Attributes:
        omitted: Bytes that were left out between the two halves.
    """

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.omitted = 0

    def add(self, data: bytes) -> None:
        """Take a piece."""
        fits = self._half - len(self._head)
        if fits > 0:
            self._head += data[:fits]
            data = data[fits:]
        self._tail += data
        # Trimmed in large steps, so that a flood costs linear time.
        if len(self._tail) > 2 * self._half + 65536:
            self._trim()

    def _trim(self) -> None:
        surplus = len(self._tail) - self._half
        if surplus > 0:
            del self._tail[:surplus]
            self.omitted += surplus

    @property
    def text(self) -> str:
        """What is kept, as UTF-8, with a line that says how much is not."""
        self._trim()
        if not self.omitted:
            return (self._head + self._tail).decode("utf-8", "replace")
        head = self._head.decode("utf-8", "replace")
        tail = self._tail.decode("utf-8", "replace")
        return f"{head}\n[... {self.omitted} bytes of output left out ...]\n{tail}"
