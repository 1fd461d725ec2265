"""E2B's daemon in a sandbox: the processes, over Connect RPC."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from e2b.envd.process.process_connect import Process as Service
from e2b.envd.process.process_pb import (
    CloseStdinRequest,
    CloseStdinResponse,
    ConnectRequest,
    ConnectResponse,
    ListRequest,
    ListResponse,
    ProcessInfo,
    ProcessInput,
    ProcessSelector,
    SendInputRequest,
    SendInputResponse,
    SendSignalRequest,
    SendSignalResponse,
    Signal,
    StartRequest,
    StartResponse,
    StreamInputRequest,
    StreamInputResponse,
)
from protobuf import Oneof

from tests.emulators.e2b.account import Account
from tests.emulators.e2b.process import Process
from tests.emulators.e2b.sandbox import Sandbox

_KEEPALIVE_S: Final = 90.0  # where the client does not say

Context = RequestContext[Any, Any]


class Processes(Service):
    """The daemons of all sandboxes: a request says in its header which one it is for."""

    def __init__(self, account: Account) -> None:
        self._account = account

    async def list(self, _request: ListRequest, ctx: Context, /) -> ListResponse:
        """All programs that run."""
        running = self._sandbox(ctx).processes.values()
        return ListResponse(
            processes=[
                ProcessInfo(config=process.config, pid=process.pid, tag=process.tag)
                for process in running
                if process.end is None
            ]
        )

    async def start(self, request: StartRequest, ctx: Context, /) -> AsyncIterator[StartResponse]:
        """Start a program, and stream what it says."""
        sandbox = self._sandbox(ctx)
        deadline_s = _deadline(ctx)
        if request.pty is not None:
            raise ConnectError(Code.UNIMPLEMENTED, "terminals are not emulated")
        if request.process is None:
            raise ConnectError(Code.INVALID_ARGUMENT, "no process was named")
        stdin = request.stdin if request.has_field("stdin") else True
        tag = request.tag if request.has_field("tag") else None
        process = await sandbox.start(request.process, _user(ctx), tag, stdin=stdin)
        queue = process.subscribe()
        sandbox.follow(process, deadline_s)
        events = process.events(queue, keepalive_s=_keepalive(ctx), deadline_s=deadline_s)
        async with aclosing(events):
            async for event in events:
                yield StartResponse(event=event)

    async def connect(
        self, request: ConnectRequest, ctx: Context, /
    ) -> AsyncIterator[ConnectResponse]:
        """Stream what a program says from now on, or how it ended a moment ago."""
        process = self._find(ctx, request.process, ended=True)
        queue = process.subscribe()
        if process.end is not None:
            queue.put_nowait(process.end)
        events = process.events(queue, keepalive_s=_keepalive(ctx), deadline_s=_deadline(ctx))
        async with aclosing(events):
            async for event in events:
                yield ConnectResponse(event=event)

    async def send_input(self, request: SendInputRequest, ctx: Context, /) -> SendInputResponse:
        """Write to a program's stdin once."""
        await _write(self._find(ctx, request.process), request.input)
        return SendInputResponse()

    async def stream_input(
        self, request: AsyncIterator[StreamInputRequest], ctx: Context, /
    ) -> StreamInputResponse:
        """Write to a program's stdin, in order."""
        process: Process | None = None
        async for message in request:
            match message.event:
                case Oneof(field="start", value=StreamInputRequest.StartEvent() as start):
                    process = self._find(ctx, start.process)
                case Oneof(field="data", value=StreamInputRequest.DataEvent() as data):
                    if process is None:
                        raise ConnectError(Code.INVALID_ARGUMENT, "input before its start")
                    if process.end is not None:
                        raise _not_found(process.pid)
                    await _write(process, data.input)
                case Oneof(field="keepalive"):
                    pass
                case event:
                    raise ConnectError(Code.UNIMPLEMENTED, f"invalid event type {event!r}")
        return StreamInputResponse()

    async def close_stdin(self, request: CloseStdinRequest, ctx: Context, /) -> CloseStdinResponse:
        """End a program's stdin."""
        await self._find(ctx, request.process).close_stdin()
        return CloseStdinResponse()

    async def send_signal(self, request: SendSignalRequest, ctx: Context, /) -> SendSignalResponse:
        """Kill a program; no other signal is ever sent by the SDK."""
        process = self._find(ctx, request.process)
        if request.signal != Signal.SIGKILL:
            raise ConnectError(Code.UNIMPLEMENTED, f"invalid signal: {request.signal}")
        await process.kill()
        return SendSignalResponse()

    def _sandbox(self, ctx: Context) -> Sandbox:
        sandbox = self._account.sandboxes.get(ctx.request_headers.get("e2b-sandbox-id", ""))
        if sandbox is None:
            raise ConnectError(Code.UNAVAILABLE, "The sandbox was not found")
        return sandbox

    def _find(
        self, ctx: Context, selector: ProcessSelector | None, *, ended: bool = False
    ) -> Process:
        wanted = None if selector is None else selector.selector
        if wanted is None:
            raise ConnectError(Code.UNIMPLEMENTED, "invalid input type <nil>")
        for process in self._sandbox(ctx).processes.values():
            named = process.pid if wanted.field == "pid" else process.tag
            if wanted.value == named and (ended or process.end is None):
                return process
        raise _not_found(wanted.value, wanted.field)


def _not_found(value: object, field: str = "pid") -> ConnectError:
    return ConnectError(Code.NOT_FOUND, f"process with {field} {value} not found")


async def _write(process: Process, wanted: ProcessInput | None) -> None:
    match wanted.input if wanted is not None else None:
        case Oneof(field="stdin", value=bytes() as data):
            await process.write(data)
        case other:
            raise ConnectError(Code.UNIMPLEMENTED, f"invalid input type {other!r}")


def _user(ctx: Context) -> str | None:
    """The user that the program is for, by the name that stands where a login's does."""
    header = ctx.request_headers.get("authorization")
    if header is None:
        return None
    scheme, _, encoded = header.partition(" ")
    try:
        name, colon, _password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        scheme = colon = name = ""
    if scheme.lower() != "basic" or not colon:
        raise ConnectError(Code.UNAUTHENTICATED, "invalid user header")
    return name


def _deadline(ctx: Context) -> float | None:
    said = ctx.request_headers.get("connect-timeout-ms")
    if said is None:
        return None
    if not said.isdigit():
        raise ConnectError(Code.INVALID_ARGUMENT, f"strconv.Atoi: parsing {said!r}")
    return int(said) / 1000 or None


def _keepalive(ctx: Context) -> float:
    said = ctx.request_headers.get("keepalive-ping-interval", "")
    return float(said) if said.isdigit() else _KEEPALIVE_S
