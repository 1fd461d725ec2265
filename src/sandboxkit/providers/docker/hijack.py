"""An HTTP request that Docker turns into a two-way stream of bytes."""

from __future__ import annotations

import json
from http.client import responses
from typing import TYPE_CHECKING, Any

import anyio

from sandboxkit.providers.docker.connection import READ, connect
from sandboxkit.providers.docker.endpoint import Endpoint

if TYPE_CHECKING:
    from anyio.abc import ByteStream

_MAX_HEAD = 64 * 1024


class RefusedError(Exception):
    """The engine answered the request with an error.

    Attributes:
        status: The HTTP status.
        message: What the engine said.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def hijack(
    endpoint: Endpoint, path: str, body: dict[str, Any] | None, *, deadline_s: float
) -> tuple[ByteStream, bytes]:
    """POST to `path` and take over the connection.

    Returns:
        The connection, and the bytes that came after the response's head.

    Raises:
        RefusedError: The engine answered with an error.
        OSError: Nobody answers, or the connection was lost.
        TimeoutError: There was no answer within `deadline_s`.
    """
    payload = b"" if body is None else json.dumps(body).encode()
    request = (
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: sandboxkit\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    with anyio.fail_after(deadline_s):
        connection = await connect(endpoint)
        try:
            await connection.send(request.encode("ascii") + payload)
            return connection, await _upgraded(connection)
        except anyio.BrokenResourceError as error:
            await anyio.aclose_forcefully(connection)
            raise ConnectionError("the engine closed the connection") from error
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(connection)
            raise


async def _upgraded(connection: ByteStream) -> bytes:
    """Read the head of the response; the rest belongs to the stream."""
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) > _MAX_HEAD:
            raise ConnectionError("the engine's answer is not HTTP")
        received += await _more(connection)
    head, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    _version, _, after = first.partition(" ")
    status = int(after[:3]) if after[:3].isdigit() else 0
    # 200 is how engines before the upgrade header answered, and some proxies still do.
    if status in {101, 200}:
        return rest
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    length = min(int(headers.get("content-length") or 0), _MAX_HEAD)
    while len(rest) < length:
        rest += await _more(connection)
    raise RefusedError(status, _explanation(rest) or responses.get(status, first))


async def _more(connection: ByteStream) -> bytes:
    try:
        return await connection.receive(READ)
    except anyio.EndOfStream as error:
        raise ConnectionError("the engine closed the connection without an answer") from error


def _explanation(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()[:500]
