"""The service's push of states: socket.io 5 over engine.io 4, websockets only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from tests.emulators.daytona.gate import Gate, Json, Route

if TYPE_CHECKING:
    from tests.emulators.daytona.account import Settings

_PING_S = 20.0
_HELLO: Json = {
    "upgrades": [],
    "pingInterval": 25000,
    "pingTimeout": 20000,
    "maxPayload": 1000000,
}
_OPEN, _PING, _CONNECTED, _DISCONNECTED, _EVENT, _NO = "0", "2", "40", "41", "42", "44"


class Events:
    """All listeners."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sockets: set[web.WebSocketResponse] = set()

    def routes(self, gate: Gate) -> list[Route]:
        """The endpoint; a wrong token is told by the protocol's own packet."""

        async def connect(request: web.Request) -> web.StreamResponse:
            return await self._connect(request, gate)

        return [Route("GET", "/api/socket.io/", connect, keyed=False)]

    async def _connect(self, request: web.Request, gate: Gate) -> web.StreamResponse:
        if not self._settings.events or request.query.get("transport") != "websocket":
            return web.json_response({"code": 0, "message": "Transport unknown"}, status=400)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(_OPEN + json.dumps({"sid": uuid.uuid4().hex, **_HELLO}))
        pings = asyncio.ensure_future(_ping(socket))
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    continue
                text = str(message.data)
                if text.startswith(_CONNECTED):
                    await self._sign_in(socket, text.removeprefix(_CONNECTED), gate)
                elif text.startswith(_DISCONNECTED):
                    break
        finally:
            pings.cancel()
            self._sockets.discard(socket)
        return socket

    async def _sign_in(self, socket: web.WebSocketResponse, said: str, gate: Gate) -> None:
        auth: Json = json.loads(said or "{}")
        if not gate.knows(auth.get("token")):
            await socket.send_str(_NO + json.dumps({"message": "Unauthorized"}))
            return
        await socket.send_str(_CONNECTED + json.dumps({"sid": uuid.uuid4().hex}))
        self._sockets.add(socket)

    async def state(self, sandbox: Json, old: str, new: str) -> None:
        """Tell everybody of a change."""
        news = {"sandbox": sandbox, "oldState": old, "newState": new}
        message = _EVENT + json.dumps(["sandbox.state.updated", news])
        for socket in list(self._sockets):
            with contextlib.suppress(ConnectionError, RuntimeError):
                await socket.send_str(message)

    async def shut(self) -> None:
        """Hang up."""
        for socket in list(self._sockets):
            await socket.close()


async def _ping(socket: web.WebSocketResponse) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError):
        while not socket.closed:
            await asyncio.sleep(_PING_S)
            await socket.send_str(_PING)
