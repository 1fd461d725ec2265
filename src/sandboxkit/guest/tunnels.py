"""TCP tunnels: to a port in the sandbox, and from a port in the sandbox to the host."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import Any, Dict, Optional

from . import wire
from .channels import MAX_CHANNELS, Channel, Client, Sink, Source, failure
from .loop import Loop, Watch
from .spawn import StartError, checked_note

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
        self._connecting: Optional[Watch] = None
        self._open_ends = 2
        self._reset = False
        if request is not None:
            self._connect(request)

    def _connect(self, request: Dict[str, Any]) -> None:
        family = socket.AF_INET6 if ":" in request["host"] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        code = self._socket.connect_ex((request["host"], int(request["port"])))
        if code not in (0, errno.EINPROGRESS):
            self._socket.close()
            raise StartError("connect", os.strerror(code), code)
        self._connecting = Watch(self.loop, os.dup(self._socket.fileno()))
        self._connecting.on_writable = self._connected
        self._connecting.want(write=True)

    def _connected(self) -> None:
        if self._connecting is None or self._socket is None:
            return
        self._connecting.close()
        problem = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            self._finish(failure("connect", os.strerror(problem), problem))
        else:
            self.say_reply({})
            self.carry(self._socket)

    def carry(self, connected: socket.socket) -> None:
        self._socket = connected
        try:
            connected.setblocking(False)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The two directions end apart, so each has a descriptor of its own.
            Source(self, wire.STDOUT, os.dup(connected.fileno()), self._read_end)
            fd = os.dup(connected.fileno())
        except OSError:  # there are no descriptors left, or it was reset at once
            self._finish({"reset": True})
            return
        sink = Sink(self, wire.STDIN, fd, self._write_end, self._write_broken)
        if self.receivers[wire.STDIN].ended:
            sink.end()

    def _read_end(self, error: Optional[OSError]) -> None:
        if error is not None:
            self._finish({"reset": True})
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
            self._finish({"reset": self._reset})

    def _write_broken(self, _error: OSError) -> None:
        """The peer has gone; what it said before may still wait to be read."""
        self._reset = True
        self._one_end_less()

    def _finish(self, value: Dict[str, Any]) -> None:
        self.abort(reset="error" not in value and value["reset"])
        self.say_done(value)

    def abort(self, reset: bool = False) -> None:
        super().abort()
        if self._connecting is not None:
            self._connecting.close()
        if self._socket is not None:
            if reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            self._socket.close()
            self._socket = None


class Listener(Channel):
    """A port in the sandbox; each connection to it becomes a channel of its own."""

    passive = True

    def __init__(
        self,
        client: Client,
        number: int,
        loop: Loop,
        request: Dict[str, Any],
        taken: Optional[socket.socket] = None,
    ) -> None:
        super().__init__(client, number, loop)
        self._unnoticed = bool(request.get("passive"))
        self.detach = bool(request.get("detach"))
        self.note = checked_note(request.get("note"))
        self._server = taken if taken is not None else _listening(request)
        self.port = int(self._server.getsockname()[1])
        self._watch = Watch(loop, os.dup(self._server.fileno()), on_readable=self._accept)
        self._watch.want(read=True)
        self.say_reply({"port": self.port})

    def _look_again(self) -> None:
        if self.client.token and not self._watch.closed:
            self._watch.want(read=True)

    def set_adrift(self) -> None:
        """No host has it any more: connections wait, as many as the kernel lets wait."""
        self.client = Client("")
        self._watch.want(read=False)

    def give(self) -> socket.socket:
        """The socket, for the host that takes the port; what was accepted before is reset."""
        self._watch.close()
        for channel in list(self.client.channels.values()):
            if channel.opened is not None and channel.opened["listener"] == self.number:
                self.client.channels.pop(channel.number).abort(reset=True)
        return self._server

    def call(self, value: Dict[str, Any]) -> None:
        if "kill" in value:
            self.detach = False
            self.say_return({})
        else:
            super().call(value)

    def _accept(self) -> None:
        try:
            accepted, _address = self._server.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors: look again soon, rather than spin.
            self._watch.want(read=False)
            self.loop.later(0.1, self._look_again)
            return
        if len(self.client.channels) >= MAX_CHANNELS:
            accepted.close()
            return
        connection = Connection(self.client, self.client.new_id(), self.loop)
        connection.passive = self._unnoticed
        if not self._unnoticed:
            self.client.accepted_at = time.monotonic()
        connection.opened = {"op": "accepted", "listener": self.number}
        self.client.channels[connection.number] = connection
        self.client.send(wire.pack_json(wire.OPEN, connection.number, connection.opened))
        connection.carry(accepted)

    def abort(self, reset: bool = False) -> None:
        self._watch.close()
        self._server.close()


def _listening(request: Dict[str, Any]) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((request["host"], int(request["port"])))
        server.listen(128)
    except OSError as error:
        server.close()
        raise StartError("listen", error.strerror or "cannot listen", error.errno) from error
    return server
