"""What blocks the event loop's thread, noticed by what it is and not by how long it took.

Python announces sleeps, connects, look-ups, opened files and started programs to audit
hooks. One of these in a thread whose loop is running, called by way of sandboxkit, is
recorded. (A timed detector would accuse whatever shares a busy machine.)
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

import sandboxkit

_SOURCES = str(Path(sandboxkit.__file__).parent) + "/"
_EVENTS = frozenset(
    {
        "open",
        "os.listdir",
        "os.scandir",
        "os.system",
        "receive",
        "shutil.copyfile",
        "shutil.copytree",
        "shutil.move",
        "shutil.rmtree",
        "sleep",
        "socket.connect",
        "socket.getaddrinfo",
        "sqlite3.connect",
        "subprocess.Popen",
    }
)
# Whoever is between sandboxkit and the call and makes it fair: an import, asyncio's own
# start of a subprocess (a fork, and no wait), and the lines of a traceback being read.
_FAIR = ("<frozen importlib", "asyncio/unix_events.py", "/linecache.py", "/importlib/")


class BlockingCalls:
    """Records blocking calls on a running loop, from `install` until the process ends.

    Attributes:
        found: What has been recorded.
        all_on: The loop on which whoever blocks it is recorded, be sandboxkit on the stack
            or not: a vendor's SDK has tasks of its own.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self.all_on: asyncio.AbstractEventLoop | None = None

    def install(self) -> None:
        """Start to listen. An audit hook stays for the life of the process."""
        sys.addaudithook(self._heard)
        # Sleeping (before Python 3.13) and receiving raise no audit event. http.client, and
        # so docker-py, receives by `SocketIO.readinto`.
        sleep, read = time.sleep, socket.SocketIO.readinto

        def heard_sleep(seconds: float) -> None:
            self._heard("sleep", (seconds,))
            sleep(seconds)

        def heard_read(stream: socket.SocketIO, buffer: memoryview) -> int | None:
            self._heard("receive", (getattr(stream, "_sock", None),))
            return read(stream, buffer)

        time.sleep = heard_sleep  # type: ignore[assignment]
        socket.SocketIO.readinto = heard_read  # type: ignore[method-assign, assignment]

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in _EVENTS:
            return
        loop = asyncio._get_running_loop()  # pyright: ignore[reportPrivateUsage]
        if loop is None:
            return
        if arguments and _is_fair(arguments[0]):
            return
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        if _accused(frame, default=loop is self.all_on):
            shown = ", ".join(repr(argument)[:80] for argument in arguments[:2])
            stack = "".join(traceback.format_list(traceback.extract_stack(frame)[-8:]))
            found = f"{event}({shown}) on the event loop:\n{stack}"
            if found not in self.found:
                self.found.append(found)


def _is_fair(thing: object) -> bool:
    """Whether it is a socket that does not block, or a file that the kernel makes up."""
    if isinstance(thing, socket.socket):
        return thing.gettimeout() == 0
    return isinstance(thing, str) and thing.startswith(("/proc/", "/sys/", "/dev/null"))


def _accused(frame: FrameType | None, *, default: bool) -> bool:
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_SOURCES):
            return True
        if any(part in name for part in _FAIR):
            return False
        frame = frame.f_back
    return default


watch = BlockingCalls()
