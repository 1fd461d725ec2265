"""One side of a proxied HTTP/1.1 connection, over h11.

h11 reads leniently where it can do so safely. A request's head is checked to be strict
before h11 sees it, so that no two readers of it can disagree where it ends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import h11

from sandboxkit.gateway.limits import Limits
from sandboxkit.gateway.refusals import Refusal

CHUNK = 256 * 1024

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # every control character but the tab
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e]+ HTTP/1\.([01])")
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

Headers = list[tuple[bytes, bytes]]
Head = h11.Request | h11.InformationalResponse | h11.Response


class Side:
    """The client's side of a connection, or the server's.

    Args:
        role: What sandboxkit is on this side: `h11.SERVER` towards the client.
        reader: What comes.
        writer: What goes.
        limits: The bounds of heads.
        moved: Called with the bytes received and the bytes sent, each time.
    """

    def __init__(
        self,
        role: type[h11.SERVER | h11.CLIENT],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Limits,
        moved: Callable[[int, int], None],
    ) -> None:
        self.reader, self.writer = reader, writer
        self._limits, self._moved = limits, moved
        self._http = h11.Connection(role, max_incomplete_event_size=limits.head_bytes)

    async def request(self) -> h11.Request | None:
        """Read the head of the next request; None if the client has ended.

        Raises:
            Refusal: It is not strictly HTTP/1.1, or too large.
        """
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise _malformed("the connection ended in the middle of a head") from None
            return None
        except asyncio.LimitOverrunError:
            raise Refusal(431, "malformed", "the head of the request is too large") from None
        self._moved(len(head), 0)
        self._check(head)
        try:
            self._http.receive_data(head)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise _malformed(str(error), error.error_status_hint) from None
        if not isinstance(event, h11.Request):
            raise _malformed("this is not a request")
        return event

    def _check(self, head: bytes) -> None:
        first, *fields = head[:-4].split(b"\r\n")
        if len(fields) > self._limits.head_fields:
            raise Refusal(431, "malformed", "the request has too many header fields")
        if any(_CONTROL.search(line) for line in (first, *fields)):
            raise _malformed("the head holds a control character, or a line without its CRLF")
        if any(line[:1] in {b" ", b"\t"} for line in fields):
            raise _malformed("the head has a folded line")
        version = _REQUEST_LINE.fullmatch(first)
        if version is None:
            raise _malformed("this is not a request line of HTTP 1.0 or 1.1")
        _check_framing(fields, chunks=version[1] == b"1")

    async def event(self) -> h11.Event:
        """What comes next of a body, or of an answer.

        Raises:
            h11.RemoteProtocolError: The other side broke off, or does not speak HTTP/1.1.
            OSError: The connection broke.
        """
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self.reader.read(CHUNK)
                self._moved(len(data), 0)
                self._http.receive_data(data)
            elif isinstance(event, h11.Event):
                return event
            else:
                raise h11.RemoteProtocolError("more was sent than HTTP allows here")

    async def send(self, event: h11.Event) -> None:
        """Send a part of a message, when the other side has taken what was sent before."""
        data = self._http.send(event)
        if data:
            self._moved(0, len(data))
            self.writer.write(data)
            await self.writer.drain()

    def next_cycle(self) -> bool:
        """Make ready for another request on this connection; False if there cannot be one."""
        left, ended = self._http.trailing_data
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if not done or left or ended:
            return False
        self._http.start_next_cycle()
        return True


def _check_framing(fields: list[bytes], *, chunks: bool) -> None:
    framing: dict[bytes, bytes] = {}
    for field in fields:
        name, _, value = field.partition(b":")
        name = name.strip().lower()
        if name in _FRAMING and name in framing:
            raise _malformed(f"the request has {name.decode()} twice")
        framing[name] = value.strip()
    length, encoding = framing.get(b"content-length"), framing.get(b"transfer-encoding")
    if length is not None and encoding is not None:
        raise _malformed("the request says in two ways how long it is")
    if length is not None and not (length.isdigit() and len(length) < 20):
        raise _malformed("the Content-Length is not a number")
    if encoding is not None and not (chunks and encoding.lower() == b"chunked"):
        raise _malformed("the Transfer-Encoding can only be chunked, in HTTP/1.1")


def _malformed(reason: str, status: int = 400) -> Refusal:
    return Refusal(status, "malformed", reason)


def end_to_end(head: Head) -> Headers:
    """The header fields that are meant for the other end, written as they came."""
    named = {
        token.strip().lower()
        for name, value in head.headers
        if name == b"connection"
        for token in value.split(b",")
    }
    dropped = _HOP_BY_HOP | (named - _FRAMING)
    fields = head.headers.raw_items()
    return [(name, value) for name, value in fields if name.lower() not in dropped]


def is_chunked(head: Head) -> bool:
    """Whether the body comes in chunks."""
    return any(name == b"transfer-encoding" for name, _ in head.headers)


def without(headers: Headers, name: bytes) -> Headers:
    """The fields but those of one name, given in lower case."""
    return [(field, value) for field, value in headers if field.lower() != name]
