"""Bytes and messages between two connections, as they come, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

import h11

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.gateway.http1 import CHUNK, Headers, Side, end_to_end, is_chunked, without
from sandboxkit.gateway.refusals import Refusal
from sandboxkit.gateway.resolver import Streams

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class NoAnswer(Exception):
    """The server broke off, or spoke no HTTP, before anything of its answer was passed on."""


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection such that the other side knows it to be broken."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    writer.transport.abort()


async def splice(client: Streams, server: Streams, moved: Callable[[int, int], None]) -> None:
    """Carry bytes until both directions have ended; the end of one is passed on alone.

    Args:
        client: The connection of the sandbox.
        server: The connection to the host.
        moved: Called with the bytes of the client, and those of the server, each time.

    Raises:
        OSError: Either connection broke.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_carry(client[0], server[1], lambda count: moved(count, 0)))
            tasks.create_task(_carry(server[0], client[1], lambda count: moved(0, count)))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, moved: Callable[[int], None]
) -> None:
    while data := await reader.read(CHUNK):
        moved(len(data))
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def exchange(
    client: Side, server: Side, request: h11.Request, *, edit: Callable[[Headers], Headers]
) -> None:
    """One request to a server, and its answer back, both as they come.

    Args:
        client: Whose body follows the request.
        server: Where it goes.
        request: The head as the server shall see it.
        edit: The last change to the header fields of the answer.

    Raises:
        NoAnswer: As it says; the client has been sent nothing.
        OSError: One of the connections broke.
        h11.ProtocolError: The answer ended too early, or is not HTTP.
    """
    upward = asyncio.create_task(_send_request(client, server, request))
    try:
        await _pass_answer(client, server, edit)
    except NoAnswer:
        if upward.done() and not upward.result():
            message = "the body of the request is not well formed, or not whole"
            raise Refusal(400, "malformed", message) from None
        raise
    finally:
        # A server may answer before it has the whole body: the rest is not wanted then.
        await cancel_and_wait(upward)


async def _send_request(client: Side, server: Side, request: h11.Request) -> bool:
    """Returns False if the client's side failed; then the server's has been reset."""
    try:
        await server.send(request)
        while True:
            try:
                event = await client.event()
            except (OSError, h11.RemoteProtocolError):
                break
            if isinstance(event, h11.EndOfMessage):
                await server.send(h11.EndOfMessage())  # trailers are for one hop
                return True
            if not isinstance(event, h11.Data):
                break
            await server.send(h11.Data(data=event.data))
    except OSError:
        return True  # the server reads no more, but its answer may be on its way
    # Without an end that the server could believe, it must not act on what it has.
    reset(server.writer)
    return False


async def _pass_answer(client: Side, server: Side, edit: Callable[[Headers], Headers]) -> None:
    begun = False
    while True:
        try:
            event = await server.event()
            if isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("the server closed the connection")
        except (OSError, h11.RemoteProtocolError) as error:
            if begun:
                raise
            raise NoAnswer(str(error)) from None
        begun = True
        if isinstance(event, h11.Response | h11.InformationalResponse):
            headers = end_to_end(event)
            if is_chunked(event):
                headers = without(headers, b"content-length")
            event = type(event)(
                status_code=event.status_code, reason=event.reason, headers=edit(headers)
            )
        elif isinstance(event, h11.EndOfMessage):
            event = h11.EndOfMessage()
        await client.send(event)
        if isinstance(event, h11.EndOfMessage):
            return
