"""Ports on 127.0.0.1, and what comes to them: no connection is without an owner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from sandboxkit.concurrency import cancel_and_wait

_LIMIT: Final = 64 * 1024
_BACKLOG: Final = 100

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


class LetGo(Protocol):
    """Closes a connection; `cut` is whether what served it was cut short."""

    def __call__(self, *, cut: bool) -> None: ...  # noqa: D102


async def listen(
    accept: Accept, port: int = 0, *, limit: int = _LIMIT, backlog: int = _BACKLOG
) -> asyncio.Server:
    """Listen on 127.0.0.1; where this is cancelled, nobody listens.

    Args:
        accept: Is given each connection.
        port: 0 picks a free one.
        limit: Bytes that a reader buffers.
        backlog: Connections that may wait to be accepted.

    Raises:
        OSError: The port is taken.
    """
    server = await asyncio.start_server(
        accept, "127.0.0.1", port, limit=limit, backlog=backlog, start_serving=False
    )
    try:
        await server.start_serving()
    except BaseException:  # cancelled: nobody would ever close it
        close(server)
        raise
    return server


def close(server: asyncio.Server) -> None:
    """Stop to listen.

    asyncio's own end drops a connection, unclosed, that it was just accepting. So nothing
    new is accepted from here on, and the end comes after what is under way.
    """
    loop = asyncio.get_running_loop()
    for each in server.sockets:
        with contextlib.suppress(NotImplementedError, RuntimeError):  # a loop of another kind
            loop.remove_reader(each.fileno())
    loop.call_soon(server.close)


class Connections:
    """A task for each connection; they end together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self, work: Coroutine[Any, Any, None], let_go: LetGo) -> None:
        """Serve a connection.

        Args:
            work: Does it.
            let_go: Closes the connection. It is called once `work` has ended, also where
                that was cancelled before it began, or comes too late to begin.
        """
        if self._closed:  # it was being accepted
            work.close()
            let_go(cut=True)
            return

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            let_go(cut=task.cancelled())

        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def aclose(self) -> None:
        """End them, and take no more."""
        self._closed = True
        await cancel_and_wait(*self._tasks)
        await asyncio.sleep(0)  # the turn in which a `close` just before this comes to its end
