"""Where a request wants to go, and the head that is sent there."""

from __future__ import annotations

import re
from dataclasses import dataclass

import h11

from sandboxkit.gateway.hosts import HostError, join, split_authority
from sandboxkit.gateway.http1 import Headers, is_chunked, without
from sandboxkit.gateway.refusals import Refusal, forbidden, printable

_HTTP_URL = re.compile(r"(?i:http)://([^/?#]*)((?:[/?][^#]*)?)")


@dataclass(frozen=True, slots=True)
class Target:
    """A host that a request is for.

    Attributes:
        host: In canonical form.
        port: The port.
        secure: Whether the gateway itself speaks TLS to it.
    """

    host: str
    port: int
    secure: bool = False

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        usual = 443 if self.secure else 80
        return join(self.host, None if self.port == usual else self.port)


def connect_target(request: h11.Request) -> Target:
    """The target of a CONNECT request.

    Raises:
        Refusal: It is no `host:port`, or the request has a body.
    """
    if is_chunked(request) or _field(request, b"content-length") not in {None, b"0"}:
        raise Refusal(400, "malformed", "a CONNECT request has no body")
    return Target(*_authority(request.target.decode("ascii"), None))


def absolute_target(request: h11.Request) -> tuple[Target, str]:
    """The target of a request for `http://...`, and the path with its query.

    Raises:
        Refusal: It is another kind of request, or its Host header says another host.
    """
    url = request.target.decode("ascii")
    found = _HTTP_URL.fullmatch(url)
    if found is None:
        message = "this is a proxy: it takes CONNECT host:port, and requests for http:// URLs"
        raise Refusal(400, "malformed", message)
    target = Target(*_authority(found[1], 80))
    check_method(request, target)
    check_host(request, target)
    path = found[2]
    return target, path if path.startswith("/") else "/" + path


def origin_path(request: h11.Request, target: Target) -> str:
    """The path and query of a request inside a tunnel.

    Raises:
        Refusal: It has no path, or its Host header says another host than the tunnel's.
    """
    check_method(request, target)
    check_host(request, target)
    path = request.target.decode("ascii")
    if not path.startswith("/"):
        raise Refusal(400, "malformed", "a request inside a tunnel begins with a path")
    return path


def check_method(request: h11.Request, target: Target) -> None:
    """Refuse the methods that ask a server to show the request, or for another tunnel."""
    if request.method in {b"TRACE", b"CONNECT"}:
        method = request.method.decode("ascii")
        raise forbidden(f"{method} is not allowed here", target.host, target.port)


def check_host(request: h11.Request, target: Target) -> None:
    """Refuse a request whose Host header is for another host than it is sent to."""
    written = _field(request, b"host")
    if written is None:
        return  # HTTP/1.0: the one that is sent on is ours in any case
    try:
        asked = split_authority(written.decode("ascii"), 443 if target.secure else 80)
    except (HostError, UnicodeDecodeError):
        asked = None
    if asked != (target.host, target.port):
        message = f"the Host header is not {target.authority}, where the request is sent"
        raise forbidden(message, target.host, target.port)


def outgoing(request: h11.Request, target: Target, path: str, headers: Headers) -> h11.Request:
    """The head that is sent on: for this target, and with a framing of our own.

    Args:
        request: As it came.
        target: Where it goes.
        path: With the query.
        headers: The end-to-end header fields.
    """
    framing: Headers = []
    if is_chunked(request):
        framing = [(b"Transfer-Encoding", b"chunked")]
    elif (length := _field(request, b"content-length")) is not None:
        framing = [(b"Content-Length", length)]
    for name in (b"host", b"content-length"):
        headers = without(headers, name)
    return h11.Request(
        method=request.method,
        target=path.encode("ascii"),
        headers=[(b"Host", target.authority.encode("ascii")), *headers, *framing],
    )


def _authority(text: str, default_port: int | None) -> tuple[str, int]:
    if "@" in text:
        raise Refusal(400, "malformed", "the host must not have a user name before it")
    try:
        return split_authority(text, default_port)
    except HostError as error:
        shown = printable(text)
        raise Refusal(400, "malformed", f"{shown!r} is no host: {error}", host=shown) from None


def _field(request: h11.Request, name: bytes) -> bytes | None:
    return next((value for field, value in request.headers if field == name), None)
