"""HTTP/1.1 towards a sandbox that may be hostile: bounded, and quick to notice a hang-up.

h11 parses; what frameworks hide and an agent needs is done here: a client that hangs up in
the middle of an answer cancels the work for it at once, because that is how Claude Code
interrupts a model that would go on and cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import anyio
import h11

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.loopback import close, listen

MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 32 * 1024 * 1024
"""The Messages API takes 32 MB (docs.anthropic.com, "Request size limits")."""

MAX_HELD: Final = 4 * MAX_BODY
"""The most that all requests of one sandbox hold together."""

_CONNECTIONS: Final = 64
_REQUEST_S: Final = 60.0  # for a request that has begun
_WRITE_S: Final = 120.0  # for a client to take what is sent
_READ: Final = 64 * 1024

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request. Header names are in lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header; empty where it is missing, or given twice."""
        found = [value for each, value in self.headers if each == name]
        return found[0] if len(found) == 1 else ""


class RefusedError(Exception):
    """The request is answered with an error of the Messages API's shape.

    Args:
        status: HTTP's.
        kind: The `type` of the error.
        message: What the agent reads.
        headers: Sent as well.
    """

    def __init__(
        self,
        status: HTTPStatus,
        kind: str,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, headers or {}

    def body(self) -> bytes:
        """As the Messages API writes its errors."""
        error = {"type": self.kind, "message": str(self)}
        return json.dumps({"type": "error", "error": error}).encode()


class Answer:
    """The answer to one request, sent as it comes."""

    def __init__(self, connection: h11.Connection, writer: asyncio.StreamWriter) -> None:
        self._connection = connection
        self._writer = writer
        self.begun = False

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head."""
        self.begun = True
        await self._send(h11.Response(status_code=status, headers=list(headers)))

    async def send(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client does not read."""
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """The body is complete."""
        await self._send(h11.EndOfMessage())

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """A complete answer."""
        fields = {"content-length": str(len(body)), **headers}
        await self.start(status, [(k.encode(), v.encode()) for k, v in fields.items()])
        await self.send(body)
        await self.end()

    async def _send(self, event: h11.Event) -> None:
        data = self._connection.send(event)
        if data:
            self._writer.write(data)
            with anyio.fail_after(_WRITE_S):
                await self._writer.drain()


Handler = Callable[[Request, Answer], Awaitable[None]]


class HttpServer:
    """Serves on 127.0.0.1 while its `async with` block runs.

    Args:
        handle: Answers one request. It is cancelled when its client hangs up.
    """

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._held = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await listen(self._accept, limit=_READ)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            close(self._server)
            self._server = None
        await cancel_and_wait(*self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._tasks) >= _CONNECTIONS:  # closed meanwhile, or full
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # cancelled before it began, too

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        try:
            while await self._serve_one(connection, reader, writer):
                connection.start_next_cycle()
        except (OSError, TimeoutError, h11.LocalProtocolError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _serve_one(
        self,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; whether another may follow."""
        answer = Answer(connection, writer)
        try:
            with self._room() as take:
                request = await _read(connection, reader, take)
                if request is None:
                    return False
                if not await self._answered(request, answer, reader, connection):
                    writer.transport.abort()
                    return False
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            refusal = RefusedError(status, "invalid_request_error", "This is not HTTP.")
            await _refuse(answer, connection, refusal)
        except RefusedError as refusal:
            if answer.begun:
                raise ConnectionAbortedError from refusal
            await _refuse(answer, connection, refusal)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    @contextlib.contextmanager
    def _room(self) -> Generator[Callable[[int], None]]:
        """Room for the body of one request; asking for too much refuses the request."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if taken + size > MAX_BODY:
                raise RefusedError(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    "request_too_large",
                    f"A request may have {MAX_BODY} bytes.",
                )
            if self._held + size > MAX_HELD:
                raise RefusedError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "overloaded_error",
                    f"All requests together may hold {MAX_HELD} bytes. Send fewer at once.",
                )
            taken += size
            self._held += size

        try:
            yield take
        finally:
            self._held -= taken

    async def _answered(
        self,
        request: Request,
        answer: Answer,
        reader: asyncio.StreamReader,
        connection: h11.Connection,
    ) -> bool:
        """Answer it; False where the client hung up first, or spoke before it was its turn."""
        working = asyncio.ensure_future(self._handle(request, answer))
        watching = asyncio.ensure_future(reader.read(_READ))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            working.result()
            if watching.done():
                connection.receive_data(watching.result())  # of the next request
            return True
        finally:
            await cancel_and_wait(working, watching)
            for task in (working, watching):
                if not task.cancelled():
                    task.exception()  # seen: a reset is a hang-up like another


async def _read(
    connection: h11.Connection, reader: asyncio.StreamReader, take: Callable[[int], None]
) -> Request | None:
    head: h11.Request | None = None
    body: list[bytes] = []
    with anyio.CancelScope() as scope:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    raise RefusedError(
                        HTTPStatus.EXPECTATION_FAILED, "invalid_request_error", "Send it at once."
                    )
                data = await reader.read(_READ)
                if scope.deadline == float("inf"):  # it has begun
                    scope.deadline = anyio.current_time() + _REQUEST_S
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                take(len(event.data))
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _whole(head, body)
            else:
                return None
    return None


def _whole(head: h11.Request, body: list[bytes]) -> Request:
    fields = tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers
    )
    return Request(
        head.method.decode("latin-1"), head.target.decode("latin-1"), fields, b"".join(body)
    )


async def _refuse(answer: Answer, connection: h11.Connection, refusal: RefusedError) -> None:
    if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    headers = {"content-type": "application/json", "connection": "close", **refusal.headers}
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers["x-should-retry"] = "false"  # the host's credentials will be no better
    await answer.whole(refusal.status, refusal.body(), headers)
