"""A port in a sandbox, as the world reaches it: plain HTTP, passed on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import h11

from tests.emulators.e2b.sandbox import Sandbox
from tests.emulators.e2b.wire import failure
from tests.emulators.machines import Program

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Receive, Scope, Send

_TOKEN: Final = "e2b-traffic-access-token"
_OURS: Final = frozenset({b"connection", b"e2b-sandbox-id", b"e2b-sandbox-port", _TOKEN.encode()})


def port(sandbox: Sandbox, number: int, headers: Headers) -> ASGIApp:
    """What answers for a port: nobody who has not the token, where one is needed."""
    if not sandbox.public and headers.get(_TOKEN) != sandbox.traffic_token:
        said = "is invalid" if _TOKEN in headers else "is missing"
        message = f"Sandbox is secured with traffic access token. Token header '{_TOKEN}' {said}"
        return failure(403, message, sandboxId=sandbox.id)

    async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:
        program = await sandbox.machine.connect(number)
        try:
            answered = await _exchange(program, scope, receive, send)
        finally:
            await program.aclose()
        if not answered:
            message = "The sandbox is running but port is not open"
            refused = failure(502, message, sandboxId=sandbox.id, port=number)
            await refused(scope, receive, send)

    return passed_on


async def _exchange(program: Program, scope: Scope, receive: Receive, send: Send) -> bool:
    """Pass one request in, and its answer out; False if nobody answers."""
    wire = h11.Connection(h11.CLIENT)
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    headers = [pair for pair in scope["headers"] if pair[0] not in _OURS]
    request = h11.Request(
        method=scope["method"], target=target, headers=[*headers, (b"connection", b"close")]
    )
    await program.send(wire.send(request) or b"")
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        if message.get("body"):
            await program.send(wire.send(h11.Data(data=message["body"])) or b"")
    await program.send(wire.send(h11.EndOfMessage()) or b"")
    async with aclosing(_events(wire, program)) as events:
        async for event in events:
            if isinstance(event, h11.Response):
                head = {"type": "http.response.start", "status": event.status_code}
                await send({**head, "headers": list(event.headers)})
            elif isinstance(event, h11.Data):
                body = bytes(event.data)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            elif isinstance(event, h11.EndOfMessage):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return True
    return False


async def _events(wire: h11.Connection, program: Program) -> AsyncGenerator[h11.Event, None]:
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            output = await program.receive()
            while output is not None and output.fd != 1:
                output = await program.receive()
            if output is None and wire.their_state is h11.SEND_RESPONSE:
                return
            wire.receive_data(b"" if output is None else output.data)
        elif isinstance(event, h11.Event):
            yield event
        else:
            return
