"""A way to the engine's socket over TCP, plain or TLS, that can be cut."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Generator


class Proxy:
    """Forwards each connection in a thread of its own, half-closes included.

    Args:
        target: The path of the engine's socket.
        tls: Speak TLS with the client.

    Attributes:
        stalled: While it is set, nothing passes, and nothing is cut.
    """

    def __init__(self, target: str, tls: ssl.SSLContext | None = None) -> None:
        self._target, self._tls = target, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self.stalled = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def stop(self) -> None:
        """Cut every connection, and accept no more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            if not select.select([self._listener], [], [], 0.05)[0]:
                continue
            client, _address = self._listener.accept()
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine, contextlib.suppress(OSError):
            engine.connect(self._target)
            if self._tls is None:
                self._forward(client, engine)
                return
            with self._tls.wrap_socket(client, server_side=True) as secure:
                self._forward(secure, engine)

    def _forward(self, client: socket.socket, engine: socket.socket) -> None:
        reading = {client, engine}
        while engine in reading and not self._stopped.is_set():
            if self.stalled.is_set():
                self._stopped.wait(0.05)
                continue
            waiting = client.pending() if isinstance(client, ssl.SSLSocket) else 0
            ready = [client] if waiting else select.select(list(reading), [], [], 0.05)[0]
            for source in ready:
                data = source.recv(65536)
                if source is engine:
                    if not data:
                        reading.discard(engine)
                    client.sendall(data)
                elif data:
                    engine.sendall(data)
                else:  # the end of the client's direction alone
                    reading.discard(client)
                    engine.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxy(engine: str, tls: ssl.SSLContext | None = None) -> Generator[Proxy, None, None]:
    running = Proxy(engine.removeprefix("unix://"), tls)
    try:
        yield running
    finally:
        running.stop()
