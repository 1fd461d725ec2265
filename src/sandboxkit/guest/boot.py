"""From a fresh interpreter to a connection with the resident guest.

`main` is run in two roles. As the sandbox's main program it becomes the guest, and
its own standard streams are the first connection. As a connector it finds the guest
(or starts it), hands it its standard streams, and waits until they are done with.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import time

from . import wire
from .loop import Loop, Watch
from .server import Server, end_machine

_START_S = 10.0  # for a guest that another connector is just starting
_PAUSE_S = 0.1


def main(role: str, text: bool) -> None:
    os.chdir("/")
    directory = _directory()
    if role == "main":
        _serve(directory, text, own_streams=True)
        return
    connection = _find(directory) or _start(directory)
    if connection is None:
        with open(directory + "/ended", "rb") as ended:
            os.write(1, wire.ENDED + ended.read(64) + b"\n")
        raise SystemExit(0)
    os.write(1, wire.GREETING)
    descriptors = array.array("i", [0, 1])
    connection.sendmsg(
        [b"T" if text else b"B"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
    )
    os.close(0)
    os.close(1)
    connection.recv(1)  # until the guest lets go of it


def _directory() -> str:
    """Where the guest's socket is: for this user alone."""
    for base in ("/run", "/tmp"):
        path = "%s/sandboxkit-%d" % (base, os.getuid())
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        except OSError:
            continue
        status = os.lstat(path)
        if status.st_uid == os.getuid() and status.st_mode & 0o77 == 0 and not os.path.islink(path):
            return path
    raise SystemExit("sandboxkit: no directory for the guest's socket")


def _find(directory: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(directory + "/guest")
    except OSError:
        connection.close()
        return None
    return connection


def _start(directory: str) -> socket.socket | None:
    """Start the guest as a daemon; of two connectors at once, one does.

    None where one has ended on purpose: what it held is gone, and so is the sandbox.
    """
    lock = os.open(directory + "/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    import fcntl

    fcntl.flock(lock, fcntl.LOCK_EX)
    connection = _find(directory)
    if connection is None and os.path.exists(directory + "/ended"):
        return None
    if connection is None:
        child = os.fork()
        if child == 0:
            _become_daemon(directory, lock)
        os.waitpid(child, 0)  # it has left the guest behind, and nobody else looks for it
    deadline = time.monotonic() + _START_S
    while connection is None and time.monotonic() < deadline:
        time.sleep(0.002)
        connection = _find(directory)
    os.close(lock)
    if connection is None:
        raise SystemExit("sandboxkit: the guest did not start")
    return connection


def _become_daemon(directory: str, lock: int) -> None:
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(directory + "/log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    for fd, source in enumerate((null, null, log)):
        os.dup2(source, fd)
    os.close(lock)
    for fd in range(3, 64):  # what the backend has left open; what is ours is not inherited
        try:
            if os.get_inheritable(fd):
                os.close(fd)
        except OSError:
            continue
    _serve(directory, text=False, own_streams=False)
    os._exit(0)


def _serve(directory: str, text: bool, own_streams: bool) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    path = directory + "/guest"
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener.bind(path)
    listener.listen(16)
    loop = Loop()

    def end_sandbox(why: str) -> None:
        if own_streams:  # as the main program, our own end is the sandbox's end
            return
        note = os.open(directory + "/ended", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        os.write(note, why.encode())
        os.close(note)
        end_machine()

    server = Server(loop, end_sandbox)
    if own_streams:
        os.write(1, wire.GREETING)
        streams = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        server.connect(streams, text, lambda: None)
        signal.signal(signal.SIGTERM, lambda _number, _frame: server.end("stopped"))
    accept = Watch(loop, listener.fileno())
    accept.on_readable = lambda: _accept(server, loop, listener, accept)
    accept.want(read=True)
    try:
        loop.run()
    finally:
        os.unlink(path)


def _accept(server: Server, loop: Loop, listener: socket.socket, accept: Watch) -> None:
    try:
        connector, _address = listener.accept()
        watch = Watch(loop, os.dup(connector.fileno()))
    except BlockingIOError:
        return
    except OSError:  # out of descriptors: look again soon, rather than spin
        accept.want(read=False)
        loop.later(_PAUSE_S, lambda: accept.want(read=True))
        return
    connector.setblocking(False)

    def gone() -> None:
        watch.close()
        connector.close()

    def received() -> None:
        """First the connector's streams; after that, its end."""
        descriptors = array.array("i")
        try:
            data, extra, _flags, _from = connector.recvmsg(1, socket.CMSG_SPACE(8))
        except BlockingIOError:
            return
        except OSError:
            data, extra = b"", []
        for level, kind, payload in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(payload[: len(payload) // 4 * 4])
        for fd in descriptors:
            os.set_inheritable(fd, False)  # no child may keep the connection open
        try:
            in_fd, out_fd = descriptors  # both, or neither is of use
            link = server.connect((in_fd, out_fd), data == b"T", gone)
        except (ValueError, OSError):
            for fd in descriptors:
                os.close(fd)
            gone()
            return
        watch.on_readable = link.close

    watch.on_readable = received
    watch.want(read=True)
