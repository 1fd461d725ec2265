"""As much of an HTTP/1.1 server as model clients need, on asyncio streams.

Keep-alive, bodies with a length or in chunks, and the one thing that a scripted model needs
and a framework hides: it is noticed at once when a client hangs up in the middle of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

import anyio

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.loopback import close, listen

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024
"""The Messages API takes 32 MB."""
PEER_DEADLINE_S = 30.0
"""For the rest of a request that has begun, and for a client to take what is sent."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, with its header names in lower case and its path without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One client, and the answer that it is getting."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ahead = b""
        self.keep_alive = True

    async def read(self) -> HttpRequest | None:
        """The next request, or None when the client is done.

        A client may be silent between two requests for as long as the server runs.

        Raises:
            ValueError: This is not HTTP, or too large.
            TimeoutError: The client stopped in the middle of its request.
        """
        try:
            # The limit of the stream bounds the head; `ahead` is at most its first byte.
            head = self._ahead + await self._reader.readuntil(b"\r\n\r\n")
            self._ahead = b""
            start, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            method, target, version = start.split(" ")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            self.keep_alive = (
                version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
            )
            with anyio.fail_after(PEER_DEADLINE_S):
                body = await self._body(headers)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except asyncio.LimitOverrunError as exc:
            raise ValueError(f"The request head exceeds {MAX_HEAD_BYTES} bytes.") from exc
        return HttpRequest(method, target.partition("?")[0], headers, body)

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._exactly(int(headers.get("content-length", "0")))
        body = bytearray()
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await self._exactly(size, beside=len(body))
            await self._reader.readuntil(b"\r\n")
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
        return bytes(body)

    async def _exactly(self, size: int, *, beside: int = 0) -> bytes:
        if size < 0 or size + beside > MAX_BODY_BYTES:
            raise ValueError(f"The request body exceeds {MAX_BODY_BYTES} bytes.")
        return await self._reader.readexactly(size)

    async def respond(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer with a whole JSON body."""
        length = {"content-type": "application/json", "content-length": str(len(body))}
        await self._send(_head(status, {**length, **(headers or {})}) + body)

    async def respond_to_head(self) -> None:
        """Answer a HEAD request, which has no body."""
        await self._send(_head(200, {"content-length": "0"}))

    async def start_stream(self, headers: Mapping[str, str]) -> None:
        """Begin a streamed answer; `send_chunk` and `end_stream` follow."""
        await self._send(_head(200, {**headers, "transfer-encoding": "chunked"}))

    async def send_chunk(self, data: bytes) -> None:
        """Send a piece of a streamed answer, at once; `data` is not empty."""
        await self._send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        """End a streamed answer as complete. Without it the client sees a broken stream."""
        await self._send(b"0\r\n\r\n")

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        with anyio.fail_after(PEER_DEADLINE_S):
            await self._writer.drain()

    async def unless_hung_up(self, work: Coroutine[object, object, None]) -> bool:
        """Do `work`, but cancel it as soon as the client hangs up.

        Returns:
            Whether `work` was done; False if the client hung up before.
        """
        working = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self._hung_up())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            working.result()
        except OSError:  # reset, or nothing taken for too long
            return False
        finally:
            await cancel_and_wait(working, watching)
        return True

    async def _hung_up(self) -> None:
        """Return when the client has closed its side or reset the connection."""
        with contextlib.suppress(ConnectionError):
            self._ahead = await self._reader.read(1)
            if self._ahead:  # the next request, early: this client is there
                await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Send what is buffered, and close.

        Raises:
            OSError: The client does not take it.
        """
        self._writer.close()
        with anyio.fail_after(PEER_DEADLINE_S):
            await self._writer.wait_closed()


Handler: TypeAlias = Callable[[HttpRequest, Connection], Awaitable[None]]


class HttpServer:
    """Answers on a loopback port of its own, on the loop that starts it.

    Args:
        handler: Answers one request. Setting `keep_alive` to False closes the connection after.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port."""
        self._server = await listen(self._accept, limit=MAX_HEAD_BYTES)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def aclose(self) -> None:
        """Stop listening, and cut every connection."""
        if self._server is not None:
            close(self._server)
            self._server = None
        await cancel_and_wait(*self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # closed while this client was being accepted
            writer.transport.abort()
            return
        # A task of our own: the one that asyncio would start logs its cancellation as an error.
        task = asyncio.create_task(self._serve(Connection(reader, writer)))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, connection: Connection) -> None:
        # OSError: the client is gone, or stopped in the middle of a request.
        with contextlib.suppress(OSError):
            await self._answer_all(connection)
            await connection.close()

    async def _answer_all(self, connection: Connection) -> None:
        while connection.keep_alive:
            try:
                request = await connection.read()
            except ValueError as exc:
                await connection.respond(400, str(exc).encode(), {"content-type": "text/plain"})
                return
            if request is None:
                return
            await self._handler(request, connection)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:  # 529 is known to this API alone
        phrase = "Error"
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {phrase}\r\n{fields}\r\n".encode("latin-1")
