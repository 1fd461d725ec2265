"""TCP tunnels: to a port in the sandbox, and from a port in the sandbox to the host."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any, Dict, Optional

from . import wire
from .channels import MAX_CHANNELS, Channel, Client, Sink, Source, failure
from .loop import Loop, Watch
from .spawn import StartError

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Connection(Channel):
    """A TCP connection in the sandbox, carried to the host."""

    inputs = (wire.STDIN,)
    outputs = (wire.STDOUT,)

    def __init__(
        self, client: Client, number: int, loop: Loop, request: Optional[Dict[str, Any]] = None
    ) -> None:
        super().__init__(client, number, loop)
        self._socket: Optional[socket.socket] = None
        self._open_ends = 2
        if request is not None:
            self._connect(request)

    def _connect(self, request: Dict[str, Any]) -> None:
        family = socket.AF_INET6 if ":" in request["host"] else socket.AF_INET
        connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        code = connecting.connect_ex((request["host"], int(request["port"])))
        if code not in (0, errno.EINPROGRESS):
            connecting.close()
            raise StartError("connect", os.strerror(code), code)
        watch = Watch(self.loop, os.dup(connecting.fileno()))

        def connected() -> None:
            watch.close()
            problem = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                connecting.close()
                self.say_done(failure("connect", os.strerror(problem), problem))
            else:
                self.say_reply({})
                self.carry(connecting)

        watch.on_writable = connected
        watch.want(write=True)

    def carry(self, connected: socket.socket) -> None:
        self._socket = connected
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The two directions end apart, so each has a descriptor of its own.
        Source(self, wire.STDOUT, os.dup(connected.fileno()), self._read_end)
        sink = Sink(self, wire.STDIN, os.dup(connected.fileno()), self._write_end, self._broken)
        for offset_stream, receiver in self.receivers.items():
            if receiver.ended and offset_stream == wire.STDIN:
                sink.end()

    def _read_end(self, error: Optional[OSError]) -> None:
        if error is not None:
            self._broken(error)
            return
        self.end(wire.STDOUT)
        self._one_end_less()

    def _write_end(self, fd: int) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        self.sinks[wire.STDIN].close()
        self._one_end_less()

    def _one_end_less(self) -> None:
        self._open_ends -= 1
        if self._open_ends == 0:
            self._finish({"reset": False})

    def _broken(self, error: OSError) -> None:
        self._finish({"reset": True})

    def _finish(self, value: Dict[str, Any]) -> None:
        super().abort()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.say_done(value)

    def abort(self, reset: bool = False) -> None:
        if self._socket is not None and reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        super().abort()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Listener(Channel):
    """A port in the sandbox; each connection to it becomes a channel of its own."""

    passive = True

    def __init__(self, client: Client, number: int, loop: Loop, request: Dict[str, Any]) -> None:
        super().__init__(client, number, loop)
        self._server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._server.bind((request["host"], int(request["port"])))
            self._server.listen(128)
        except OSError as error:
            self._server.close()
            raise StartError("listen", error.strerror or "cannot listen", error.errno) from error
        self._watch = Watch(loop, os.dup(self._server.fileno()), on_readable=self._accept)
        self._watch.want(read=True)
        self.say_reply({"port": self._server.getsockname()[1]})

    def _accept(self) -> None:
        try:
            accepted, _address = self._server.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors: look again soon, rather than spin.
            self._watch.want(read=False)
            self.loop.later(0.1, lambda: self._watch.want(read=True))
            return
        if len(self.client.channels) >= MAX_CHANNELS:
            accepted.close()
            return
        connection = Connection(self.client, self.client.new_id(), self.loop)
        connection.opened = {"op": "accepted", "listener": self.number}
        self.client.channels[connection.number] = connection
        self.client.send(wire.pack_json(wire.OPEN, connection.number, connection.opened))
        connection.carry(accepted)

    def abort(self, reset: bool = False) -> None:
        self._watch.close()
        self._server.close()
