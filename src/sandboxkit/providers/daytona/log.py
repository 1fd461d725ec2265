"""The service's log of a program, byte by byte: two streams, and where they end."""

from __future__ import annotations

from typing import Final, Literal

from sandboxkit.providers.base import Output

Fd = Literal[1, 2]

_MARKS: Final[dict[Fd, bytes]] = {1: b"\1\1\1", 2: b"\2\2\2"}
_FDS: Final[dict[bytes, Fd]] = {mark: fd for fd, mark in _MARKS.items()}
_OTHER: Final[dict[Fd, Fd]] = {1: 2, 2: 1}
_WIDTH: Final = 3
SEPARATOR: Final = b"\x1e"
"""Starts the end mark: few programs write it, so that a look for one byte is enough."""


class LogReader:
    """Splits a log into the program's streams, however its bytes are cut.

    The service starts each line with the mark of its stream, and always ends it with a
    newline. Our own wrapper ends each stream with a line of its own (`end`, a space, the
    exit code), so that a last line without a newline arrives as it was written.

    Args:
        end: What starts the last line of each stream; it starts with `SEPARATOR`.
    """

    def __init__(self, end: bytes) -> None:
        self._streams: dict[Fd, _Stream] = {1: _Stream(end), 2: _Stream(end)}
        self._held = b""  # what cannot be told yet
        self._fd: Fd = 1
        self._fresh = True  # at the start of a line
        self._torn: Fd | None = None  # whose line a line of the other stream has cut in two

    @property
    def exit_code(self) -> int | None:
        """The program's, as a shell counts, once its stdout has ended."""
        return self._streams[1].code

    @property
    def finished(self) -> bool:
        """Whether both streams have ended."""
        return all(stream.code is not None for stream in self._streams.values())

    def feed(self, data: bytes) -> list[Output]:
        """The output in the next piece of the log."""
        found: list[Output] = []
        data, self._held = self._held + data, b""
        at = 0
        while at < len(data):
            step = self._begin_line if self._fresh else self._continue_line
            at = step(data, at, found)
        return found

    def _begin_line(self, data: bytes, at: int, _found: list[Output]) -> int:
        head = data[at : at + _WIDTH]
        if len(head) < _WIDTH and head in {b"\1", b"\1\1", b"\2", b"\2\2"}:
            self._held = head
            return len(data)
        self._fresh = False
        if head in _FDS:
            self._fd = _FDS[head]
            return at + _WIDTH
        if self._torn is not None:  # the other stream's line is over: the torn one goes on
            self._fd, self._torn = self._torn, None
        return at

    def _continue_line(self, data: bytes, at: int, found: list[Output]) -> int:
        fd, other = self._fd, _OTHER[self._fd]
        newline = data.find(b"\n", at)
        end = len(data) if newline < 0 else newline + 1
        torn = data.find(_MARKS[other], at, end)
        if torn >= 0:
            self._fd, self._torn = other, fd
            self._emit(fd, data[at:torn], found)
            return torn + _WIDTH
        self._fresh = newline >= 0
        if not self._fresh:
            while end > at and len(data) - end < _WIDTH - 1 and data[end - 1] == other:
                end -= 1  # perhaps the start of a mark
            self._held = data[end:]
        self._emit(fd, data[at:end], found)
        return len(data) if self._held else end

    def _emit(self, fd: Fd, data: bytes, found: list[Output]) -> None:
        data = self._streams[fd].feed(data)
        if not data:
            return
        if found and found[-1].fd == fd:
            data = found.pop().data + data
        found.append(Output(fd, data))


class _Stream:
    """One stream: what the program wrote, up to our end mark."""

    def __init__(self, end: bytes) -> None:
        self.code: int | None = None
        self._end = end
        self._held = b""  # perhaps the start of the end mark, or it and not yet its line's end

    def feed(self, data: bytes) -> bytes:
        if self.code is not None:
            return b""  # of what the program has left running
        data, self._held = self._held + data, b""
        at = data.find(SEPARATOR)
        while at >= 0:
            rest = data[at:]
            if rest.startswith(self._end):
                code, newline, _ = rest[len(self._end) :].partition(b"\n")
                if newline:
                    self.code = int(code)
                else:
                    self._held = rest
                return data[:at]
            if self._end.startswith(rest):
                self._held = rest
                return data[:at]
            at = data.find(SEPARATOR, at + 1)
        return data
