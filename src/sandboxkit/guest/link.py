"""One connection to a host: frames in, frames out, over two file descriptors."""

from __future__ import annotations

import os
from collections import deque
from typing import Callable, Deque, List, Tuple

from . import wire
from .loop import Loop, Watch, log, read_some, widen

_HIGH = 512 * 1024  # bytes waiting to be written: sources stop reading
_LOW = 128 * 1024  # and start again
_BUFFERS = 64  # buffers in one writev
_READ = 256 * 1024


class Link:
    """Calls `on_frame` for each frame, `on_lost` once when the connection is gone."""

    def __init__(
        self,
        loop: Loop,
        streams: Tuple[int, int],
        *,
        text: bool,
        on_frame: Callable[[Link, wire.Frame], None],
        on_lost: Callable[[Link], None],
        on_drained: Callable[[], None],
    ) -> None:
        self._text = text
        self._decoder = wire.LineDecoder() if text else wire.Decoder()
        self._frames: List[bytes] = []
        self._out: Deque[memoryview] = deque()
        self._backlog = 0
        self._throttled = False
        self._on_frame, self._on_lost, self._on_drained = on_frame, on_lost, on_drained
        self.closed = False
        in_fd, out_fd = streams
        for fd in streams:
            os.set_blocking(fd, False)
            widen(fd, wire.WINDOW)
        self._in = Watch(loop, in_fd, on_readable=self._read)
        self._out_watch = Watch(loop, out_fd, on_writable=self.flush)
        self._in.want(read=True)

    @property
    def busy(self) -> bool:
        """Whether so much waits to be written that nothing more should be read."""
        self._throttled = self._throttled or self._backlog > _HIGH
        return self._throttled

    def send(self, *buffers: bytes) -> None:
        for buffer in buffers:
            self._frames.append(buffer)
            self._backlog += len(buffer)

    def flush(self) -> None:
        if self.closed:
            return
        self._encode()
        try:
            while self._out:
                batch = [self._out[at] for at in range(min(len(self._out), _BUFFERS))]
                self._written(os.writev(self._out_watch.fd, batch))
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._out_watch.want(write=bool(self._out))
        if self._throttled and self._backlog < _LOW:
            self._throttled = False
            self._on_drained()

    def _encode(self) -> None:
        if self._frames and self._text:
            lines = wire.to_lines(b"".join(self._frames))
            self._backlog += len(lines) - sum(map(len, self._frames))
            self._out.append(memoryview(lines))
        else:
            self._out.extend(map(memoryview, self._frames))
        self._frames = []

    def _written(self, count: int) -> None:
        self._backlog -= count
        while count:
            first = self._out[0]
            if count < len(first):
                self._out[0] = first[count:]
                return
            count -= len(first)
            self._out.popleft()

    def _read(self) -> None:
        try:
            data = read_some(self._in.fd, _READ)
            if data is None:
                return
            for frame in self._decoder.feed(data):
                self._on_frame(self, frame)
                if self.closed:
                    return
        except (OSError, wire.WireError):
            data = b""
        except Exception as error:  # noqa: BLE001 - nonsense costs the connection
            log(error)
            data = b""
        if not data:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._in.close()
            self._out_watch.close()
            self._out.clear()
            self._on_lost(self)
