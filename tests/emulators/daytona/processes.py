"""The toolbox's processes: one-off commands, and sessions with their log streams."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from typing import Any

from aiohttp import web

from tests.emulators.daytona.account import Account
from tests.emulators.daytona.box import Box
from tests.emulators.daytona.gate import FAULT, Route, body_of, list_of, strings_of, text_of
from tests.emulators.daytona.refusals import DAEMON, PROXY, Refused
from tests.emulators.daytona.session import Session, SessionCommand
from tests.emulators.faults import Fault

_FRAME = 1024  # bytes: what the daemon reads of a log at once
_AHEAD = 32 * _FRAME  # what this one reads
_KILLED = 137


class Toolbox:
    """What all parts of the toolbox do first."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def box(self, request: web.Request) -> Box:
        """The sandbox, which must be started; to ask for it counts as use."""
        box = self._account.box(request.match_info["id"])
        if box.state not in {"started", "snapshotting"}:
            raise Refused(400, f"Sandbox is not running: {box.state}", source=PROXY)
        box.touch()
        return box


class Processes(Toolbox):
    """The endpoints."""

    def routes(self) -> list[Route]:
        """All of them."""
        top = "/toolbox/{id}"
        session = f"{top}/process/session/{{sid}}"
        command = f"{session}/command/{{cid}}"
        return [
            Route("GET", f"{top}/version", self._version),
            Route("GET", f"{top}/user-home-dir", self._directory),
            Route("GET", f"{top}/work-dir", self._directory),
            Route("POST", f"{top}/env", self._env),
            Route("POST", f"{top}/process/execute", self._execute, "execute"),
            Route("GET", f"{top}/process/session", self._sessions),
            Route("POST", f"{top}/process/session", self._create, "session"),
            Route("GET", session, self._get),
            Route("DELETE", session, self._delete, "end"),
            Route("POST", f"{session}/exec", self._exec, "start"),
            Route("GET", command, self._command, "status"),
            Route("POST", f"{command}/input", self._input, "input"),
            Route("GET", f"{command}/logs", self._logs, "output"),
        ]

    def _session(self, request: web.Request) -> Session:
        sid = request.match_info["sid"]
        found = self.box(request).sessions.get(sid)
        if found is None:
            raise Refused(404, f"session not found: {sid}", source=DAEMON)
        return found

    def _found(self, request: web.Request) -> SessionCommand:
        cid = request.match_info["cid"]
        found = self._session(request).commands.get(cid)
        if found is None:
            raise Refused(404, f"command not found: {cid}", source=DAEMON)
        return found

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"version": self.box(request).dto()["daemonVersion"]})

    async def _directory(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"dir": self.box(request).home})

    async def _env(self, request: web.Request) -> web.StreamResponse:
        box, body = self.box(request), await body_of(request)
        box.env.update(strings_of(body, "set", source=DAEMON))
        for name in list_of(body, "unset", source=DAEMON):
            box.env.pop(name, None)
        return web.json_response({})

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        box, body = self.box(request), await body_of(request)
        text = text_of(body, "command", source=DAEMON)
        timeout = body.get("timeout")
        shell = "$(command -v bash || command -v sh)"
        if timeout:
            shell = f"timeout -s KILL {int(timeout)} {shell}"
        line = f"exec {shell} 2>&1"
        if body.get("cwd"):
            line = f"cd -- {shlex.quote(body['cwd'])} || exit 1; {line}"
        env = box.environment() | strings_of(body, "envs", source=DAEMON)
        argv = ["/bin/sh", "-c", line]
        program = await box.machine.start(argv, env=env, cwd=box.home, user=box.order.user)
        try:
            await program.feed(text.encode())
            said = b"".join([output.data async for output in program])
            code = await program.wait()
        finally:
            await program.aclose()
        if timeout and code == _KILLED:
            message = "command execution timeout"
            raise Refused(408, message, "PROCESS_EXECUTION_TIMEOUT", DAEMON)
        return web.json_response({"exitCode": code, "result": said.decode(errors="replace")})

    async def _sessions(self, request: web.Request) -> web.StreamResponse:
        return web.json_response([each.dto() for each in self.box(request).sessions.values()])

    async def _create(self, request: web.Request) -> web.StreamResponse:
        sid = text_of(await body_of(request), "sessionId", source=DAEMON)
        box = self.box(request)  # from here to its entry nothing waits, or its end would miss it
        if sid in box.sessions:
            raise Refused(409, f"session already exists: {sid}", source=DAEMON)
        session = Session(sid, box.machine, box.order.user, box.home)
        box.sessions[sid] = session
        try:
            await session.open(box.environment())
        except BaseException:
            box.sessions.pop(sid, None)
            raise
        return web.Response(status=201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._session(request).dto())

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        self.box(request).sessions.pop(session.id)
        await session.end()
        return web.Response(status=204)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        session, body = self._session(request), await body_of(request)
        text = text_of(body, "command", source=DAEMON)
        wait = not (body.get("runAsync") or body.get("async"))
        command = await session.run(text, echo=not body.get("suppressInputEcho"), wait=wait)
        if not wait:
            return web.json_response({"cmdId": command.id}, status=202)
        answer = {"cmdId": command.id, "exitCode": command.exit_code}
        return web.json_response(answer | _logs_of(command))

    async def _command(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._found(request).dto())

    async def _input(self, request: web.Request) -> web.StreamResponse:
        command, body = self._found(request), await body_of(request)
        data = body.get("data")
        if not isinstance(data, str):
            raise Refused(400, "data must be a string", source=DAEMON)
        await command.write(data)
        return web.Response(status=204)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        box, command = self.box(request), self._found(request)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.json_response(_logs_of(command))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        listening = asyncio.ensure_future(_listen(socket))
        tail_s = self._account.settings.log_tail_s
        fault = request.get(FAULT)
        try:
            with box.hold(request), contextlib.suppress(ConnectionError):
                await _follow(request, socket, command, listening, fault)
                await asyncio.wait({listening}, timeout=tail_s)
                await socket.close()
        finally:
            listening.cancel()
        return socket


def _logs_of(command: SessionCommand) -> dict[str, str]:
    stdout, stderr = command.said(1), command.said(2)
    return {"output": stdout + stderr, "stdout": stdout, "stderr": stderr}


async def _listen(socket: web.WebSocketResponse) -> None:
    """Answer pings until the other side hangs up."""
    async for _ in socket:
        pass


async def _follow(
    request: web.Request,
    socket: web.WebSocketResponse,
    command: SessionCommand,
    listening: asyncio.Future[None],
    fault: Fault | None,
) -> None:
    """Send the log from its first byte until its end, or until nobody listens."""
    breaks = fault if fault is not None and fault.kind in {"cut", "stall"} else None
    sent, ahead = 0, b""
    while not listening.done():
        over = command.over
        ahead = ahead or command.piece(sent, _AHEAD)
        frame, ahead = ahead[:_FRAME], ahead[_FRAME:]
        if breaks is not None:
            frame = frame[: breaks.after - sent]
        if frame:
            await socket.send_bytes(frame)
            sent += len(frame)
        elif breaks is not None and sent >= breaks.after:
            if breaks.kind == "cut" and request.transport is not None:
                request.transport.abort()
            await asyncio.wait({listening})
        elif over:
            return
        else:
            news = asyncio.ensure_future(command.changed())
            either: set[asyncio.Future[Any]] = {listening, news}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
