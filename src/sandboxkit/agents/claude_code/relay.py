"""PROVISIONAL, until the gateway exists: adds the key to model requests on the host.

A small HTTP/1.1 relay on loopback. Requests must carry the relay's own token, which is
all that the sandbox knows; it is replaced by the real credential here. Only the paths
of the Messages API pass. Answers go through as bytes, unread and unbuffered; when
either side hangs up, so does the other, because an interrupted agent hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import secrets
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from sandboxkit.concurrency import cancel_and_wait

_MAX_HEAD = 64 * 1024
_DIAL_S = 30.0
_CHUNK = 64 * 1024
_PATHS = re.compile(r"(/|/v1/messages|/v1/messages/count_tokens|/v1/models(/[\w.-]+)?)?(\?\S*)?")
_OURS = frozenset({"host", "x-api-key", "authorization", "proxy-authorization", "upgrade"})


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Relay:
    """Listens while its `async with` block runs.

    Args:
        url: Where requests go: `http` or `https`, with an optional path that they all begin with.
        headers: What authenticates there.

    Attributes:
        token: What a request must carry as `x-api-key`.
        port: Where it listens on 127.0.0.1.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        default = parts.port is None
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._added = {"host": host if default else f"{host}:{self._port}", **headers}
        self._ssl: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.token = f"sandboxkit-{secrets.token_urlsafe(24)}"
        self.port = 0

    async def __aenter__(self) -> Self:
        if self._tls:
            self._ssl = await anyio.to_thread.run_sync(ssl.create_default_context)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_MAX_HEAD)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        await cancel_and_wait(*self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers: asyncio.Task[None] | None = None
        upstream: asyncio.StreamWriter | None = None
        try:
            while (head := await _read_head(reader)) is not None:
                out, size = self._checked(head)
                if upstream is None:
                    with anyio.fail_after(_DIAL_S):
                        source, upstream = await asyncio.open_connection(
                            self._host, self._port, ssl=self._ssl, limit=_CHUNK
                        )
                    answers = asyncio.ensure_future(_pump(source, writer))
                upstream.write(out)
                await _copy(reader, upstream, size)
        except _Refused as refusal:
            await _answer(writer, refusal.status, str(refusal))
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
            if upstream is None:
                reason = f"The model at {self._host} cannot be reached from the host."
                await _answer(writer, HTTPStatus.BAD_GATEWAY, reason)
        finally:
            if upstream is not None:
                upstream.transport.abort()
            await cancel_and_wait(answers)
            writer.close()

    def _checked(self, head: bytes) -> tuple[bytes, int]:
        """The head to send on, and the size of the body."""
        start, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, _, rest = start.partition(" ")
        target, _, version = rest.rpartition(" ")
        fields = [(name.lower(), value.strip()) for name, _, value in _fields(lines)]
        token = dict(fields).get("x-api-key", "")
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise _Refused(HTTPStatus.UNAUTHORIZED, "This is not the token of this session.")
        path = target.removeprefix(self._prefix) if target.startswith(self._prefix) else None
        if path is None or not _PATHS.fullmatch(path) or method not in {"GET", "HEAD", "POST"}:
            raise _Refused(HTTPStatus.FORBIDDEN, "Only the Messages API can be reached from here.")
        sizes = [value for name, value in fields if name == "content-length"] or ["0"]
        chunked = any(name == "transfer-encoding" for name, _ in fields)
        if chunked or len(sizes) > 1 or not sizes[0].isdecimal() or version != "HTTP/1.1":
            raise _Refused(HTTPStatus.BAD_REQUEST, "This is not a request that can be relayed.")
        kept = [(name, value) for name, value in fields if name not in _OURS]
        sent = [f"{name}: {value}\r\n" for name, value in (*self._added.items(), *kept)]
        out = f"{method} {target} HTTP/1.1\r\n{''.join(sent)}\r\n".encode("latin-1")
        return out, int(sizes[0])


def _fields(lines: list[str]) -> list[tuple[str, str, str]]:
    fields = [line.partition(":") for line in lines]
    if any(not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name) for name, _, _ in fields):
        raise _Refused(HTTPStatus.BAD_REQUEST, "A header is malformed.")
    return fields


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise _Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head is too large."
        ) from None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> None:
    while count:
        data = await reader.readexactly(min(count, _CHUNK))
        count -= len(data)
        writer.write(data)
        await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry the answers; their end ends the connection, also while a request is awaited."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()
    except OSError:
        writer.transport.abort()


async def _answer(writer: asyncio.StreamWriter, status: HTTPStatus, reason: str) -> None:
    body = (
        f'{{"type": "error", "error": {{"type": "relay_error", "message": "{reason}"}}}}'.encode()
    )
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with contextlib.suppress(OSError):
        writer.write(head.encode() + body)
        await writer.drain()
