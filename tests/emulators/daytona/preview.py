"""Preview links: a sandbox's port, reached from outside with a token."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from sandboxkit.errors import SandboxError
from tests.emulators.daytona.account import Account
from tests.emulators.daytona.box import Box
from tests.emulators.daytona.gate import Route, number_of
from tests.emulators.daytona.refusals import PROXY, Refused
from tests.emulators.machines import MachineGone, Program, StartFailed

_HEAD = 64 * 1024
_PIECE = 64 * 1024
_HEADER = "x-daytona-preview-token"
_PARAMETER = "DAYTONA_SANDBOX_AUTH_KEY"
_SIGNED_S = 60

Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of a request."""

    target: str
    lines: tuple[str, ...]

    def header(self, name: str) -> str:
        """The value of a header, or nothing."""
        for line in self.lines:
            key, _, value = line.partition(":")
            if key.strip().lower() == name:
                return value.strip()
        return ""

    def tokens(self) -> set[str]:
        """Whatever it shows to be let in."""
        query = parse_qs(urlsplit(self.target).query)
        bearer = self.header("authorization").removeprefix("Bearer ")
        return {self.header(_HEADER), bearer, *query.get(_PARAMETER, [])}


class Previews:
    """The endpoints, and a listener for each link.

    The real service tells links apart by the name of the host; on a loopback address it
    must be the port.
    """

    def __init__(self, account: Account, key: str) -> None:
        self._account = account
        self._key = key
        self._open: dict[tuple[str, int], str] = {}
        self._servers: list[asyncio.Server] = []
        self._signed: dict[str, float] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def routes(self) -> list[Route]:
        """All of them."""
        top = "/api/sandbox/{id}/ports/{port}"
        return [
            Route("GET", f"{top}/preview-url", self._link, "expose"),
            Route("GET", f"{top}/signed-preview-url", self._sign, "expose"),
            Route("POST", f"{top}/signed-preview-url/{{token}}/expire", self._expire),
        ]

    def _asked(self, request: web.Request) -> tuple[Box, int]:
        box = self._account.box(request.match_info["id"])
        port = number_of(request.match_info["port"], "port", least=1)
        if port > 65535:
            raise Refused(400, "port must not be greater than 65535")
        return box, port

    async def _link(self, request: web.Request) -> web.StreamResponse:
        box, port = self._asked(request)
        if (box.id, port) not in self._open:

            def allowed(head: Head) -> bool:
                return box.public or bool({box.token, self._key} & head.tokens())

            self._open[box.id, port] = await self._listen(box, port, allowed)
        url = self._open[box.id, port]
        return web.json_response({"sandboxId": box.id, "url": url, "token": box.token})

    async def _sign(self, request: web.Request) -> web.StreamResponse:
        box, port = self._asked(request)
        seconds = number_of(request.query.get("expiresInSeconds", str(_SIGNED_S)), "expiry")
        token = secrets.token_hex(8)
        self._signed[token] = time.monotonic() + seconds

        def allowed(head: Head) -> bool:
            return time.monotonic() < self._signed[token]

        url = await self._listen(box, port, allowed)
        shown = {"sandboxId": box.id, "port": port, "token": token, "url": url}
        return web.json_response(shown)

    async def _expire(self, request: web.Request) -> web.StreamResponse:
        self._asked(request)
        token = request.match_info["token"]
        if token not in self._signed:
            raise Refused(404, "Signed preview URL not found")
        self._signed[token] = 0.0
        return web.Response(status=200)

    async def _listen(self, box: Box, port: int, allowed: Callable[[Head], bool]) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await _serve(box, port, allowed, reader, writer)
            except asyncio.CancelledError:
                pass  # `aclose`: asyncio would report a cancelled connection as an error
            finally:
                self._connections.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_HEAD)
        self._servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        """Stop to listen."""
        for server in self._servers:
            server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(
    box: Box,
    port: int,
    allowed: Callable[[Head], bool],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """One connection: the token first, then bytes both ways."""
    head = _parse(await reader.readuntil(b"\r\n\r\n"))
    try:
        if not allowed(head):
            raise Refused(401, "Unauthorized: preview token is invalid", source=PROXY)
        if box.state != "started":
            raise Refused(400, f"Sandbox is not running: {box.state}", source=PROXY)
        box.touch()
        inside = await _connect(box, port)
    except Refused as refused:
        await _refuse(writer, refused)
        return
    try:
        await inside.send(_forwarded(head))
        await _relay(inside, reader, writer)
    finally:
        await inside.aclose()
        box.touch()


async def _connect(box: Box, port: int) -> Program:
    try:
        return await box.machine.connect(port)
    except (MachineGone, StartFailed, SandboxError) as error:
        raise Refused(502, f"cannot reach port {port}", source=PROXY) from error


async def _relay(
    inside: Program, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async def inwards() -> None:
        with contextlib.suppress(ConnectionError, SandboxError):
            while data := await reader.read(_PIECE):
                await inside.send(data)

    sending = asyncio.ensure_future(inwards())
    answered = False
    try:
        with contextlib.suppress(SandboxError):
            async for output in inside:
                if output.fd == 1:
                    answered = True
                    writer.write(output.data)
                    await writer.drain()
        if not answered:
            await _refuse(writer, Refused(502, "nothing answers at this port", source=PROXY))
        await _finish(writer)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _refuse(writer: asyncio.StreamWriter, refused: Refused) -> None:
    body = refused.answer().body
    assert isinstance(body, bytes)
    head = f"HTTP/1.1 {refused.status} Refused\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await _finish(writer)


async def _finish(writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def _parse(raw: bytes) -> Head:
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    target = first.split(" ")[1] if first.count(" ") == 2 else "/"
    return Head(target, (first, *lines))


def _forwarded(head: Head) -> bytes:
    """The head for the service inside: one request per connection, and without the token."""
    upgrade = "upgrade" in head.header("connection").lower()
    hidden = {_HEADER} if upgrade else {_HEADER, "connection"}
    first, *lines = head.lines
    kept = [line for line in lines if line.partition(":")[0].strip().lower() not in hidden]
    if not upgrade:
        kept.append("Connection: close")
    return "\r\n".join([first, *kept, "", ""]).encode("latin-1")
