"""What happens to a request on its way: faults strike, connections break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse

from tests.emulators.faults import Fault, Faults

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CONNECT: Final = {  # Connect's codes, as HTTP's
    "canceled": 499,
    "deadline_exceeded": 504,
    "internal": 500,
    "invalid_argument": 400,
    "not_found": 404,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "unauthenticated": 401,
    "unavailable": 503,
    "unknown": 500,
}
_ITSELF: Final = frozenset({"pause"})  # operations that are slow inside, not before


class Exchange:
    """One request and its answer, on the connection that it came by.

    Args:
        scope: The request.
        receive: The rest of it.
        send: The answer's way out.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._transport: asyncio.Transport = scope["state"]["transport"]
        self._receive, self._send = receive, send
        self._gone = asyncio.Event()
        self._sent = 0
        self._lose = False
        self._break: Fault | None = None
        self.delay_s = 0.0

    def drop(self) -> None:
        """Break the connection, as a network does."""
        self._transport.abort()
        self._gone.set()

    def strike(self, fault: Fault) -> None:
        """Have a fault happen to the answer."""
        if fault.kind == "lose_answer":
            self._lose = True
        elif fault.kind in {"cut", "stall"}:
            self._break = fault

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Answer the request; a stream whose client has gone is given up."""
        work = asyncio.ensure_future(app(scope, self.receive, self.send))
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            left = not work.done()
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.wait({work, gone})
        if not left:
            work.result()
        elif not work.cancelled():
            work.exception()  # whatever it was, nobody is there to hear it

    async def receive(self) -> Message:
        """The next piece of the request."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone.set()
        return message

    async def send(self, message: Message) -> None:
        """A piece of the answer, if nothing befalls it."""
        if self._lose:
            self.drop()
            return
        fault, body = self._break, message.get("body", b"")
        if fault is None or self._sent + len(body) < fault.after:
            self._sent += len(body)
            await self._send(message)
            return
        if message["type"] == "http.response.start":
            await self._send(message)
            return
        if piece := body[: fault.after - self._sent]:
            self._sent += len(piece)
            await self._send({**message, "body": piece, "more_body": True})
        if fault.kind == "cut":
            self._transport.close()  # what was sent goes out first
            self._gone.set()
        else:
            await self._gone.wait()


class Gate:
    """The way in, where faults strike.

    Args:
        app: What answers.
        faults: What goes wrong.
        operations: Which operations a request is.
    """

    def __init__(
        self, app: ASGIApp, faults: Faults, operations: Callable[[Scope], Sequence[str]]
    ) -> None:
        self._app, self._faults, self._operations = app, faults, operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through."""
        exchange = Exchange(scope, receive, send)
        scope["state"]["exchange"] = exchange
        for operation in self._operations(scope):
            fault = self._faults.take(operation)
            if fault is None:
                continue
            if fault.kind == "refuse":
                await refusal(fault)(scope, receive, send)
                return
            if fault.kind == "delay" and operation in _ITSELF:
                exchange.delay_s = fault.seconds
            elif fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            exchange.strike(fault)
        await exchange.run(self._app, scope)


def refusal(fault: Fault) -> JSONResponse:
    """The answer to a request that a test wants refused, in the shape of the real one."""
    status = fault.status if isinstance(fault.status, int) else _CONNECT[fault.status]
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    body = {"code": fault.status, "message": f"refused by the test with {fault.status}"}
    return JSONResponse(body, status, headers)


def failure(status: int, message: str, **more: object) -> JSONResponse:
    """An error of the API, as it shapes them."""
    return JSONResponse({"code": status, "message": message, **more}, status)
