"""One connection of the sandbox to the egress proxy, from its first byte to its last."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import h11

from sandboxkit.gateway.clienthello import ACCESS_DENIED, NotTls, read_client_hello
from sandboxkit.gateway.gate import Gate
from sandboxkit.gateway.hosts import HostError, canonical_host, literal
from sandboxkit.gateway.http1 import CHUNK, Side, end_to_end
from sandboxkit.gateway.refusals import Refusal, printable
from sandboxkit.gateway.relay import NoAnswer, exchange, reset, splice
from sandboxkit.gateway.requests import (
    Target,
    absolute_target,
    connect_target,
    origin_path,
    outgoing,
)
from sandboxkit.gateway.resolver import Streams
from sandboxkit.gateway.termination import Termination

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_LINGER_S = 2.0


@dataclass(slots=True)
class _Server:
    """The connection to a host, kept while the client goes on to ask that host."""

    target: Target
    address: str
    side: Side
    secured: bool = False


class Connection:
    """Serves one client until it, or what it wanted, ends.

    Args:
        gate: The way out.
        tokens: The tokens of the session.
        streams: The client's connection.
        moved: Called with the bytes from the client and to it, each time.
        termination: The hosts towards which secrets go; None if there are none.

    Attributes:
        target: The host that it is connected to, or on its way to.
        active: When a byte last moved, on the loop's clock.
    """

    def __init__(
        self,
        gate: Gate,
        tokens: Iterable[str],
        streams: Streams,
        moved: Callable[[int, int], None],
        termination: Termination | None,
    ) -> None:
        self.target: Target | None = None
        self.active = asyncio.get_running_loop().time()
        self._gate, self._termination, self._count = gate, termination, moved
        self._reader, self._writer = streams
        self._credentials = [base64.b64encode(f"sandboxkit:{each}".encode()) for each in tokens]
        self._client = Side(h11.SERVER, *streams, gate.limits, self._moved)
        self._server: _Server | None = None
        self._method = ""
        self._asked = 0

    async def run(self) -> None:
        """Serve; whatever happens, both connections are closed at the end."""
        try:
            await self._serve()
        except Refusal as refusal:
            await self._refuse(refusal)
        except (OSError, h11.ProtocolError, EOFError):
            self.cut()
        except asyncio.CancelledError:
            self.cut()
            raise
        finally:
            self._writer.close()
            self._drop_server()

    def cut(self) -> None:
        """End both connections such that both ends know them to be broken."""
        reset(self._writer)
        if self._server is not None:
            reset(self._server.side.writer)

    # --- requests to the proxy itself ---

    async def _serve(self) -> None:
        while (request := await self._next_request()) is not None:
            self._authorise(request)
            if request.method == b"CONNECT":
                await self._tunnel(connect_target(request))
                return
            target, path = absolute_target(request)
            if not await self._answer(request, target, path):
                return

    async def _next_request(self) -> h11.Request | None:
        self._asked += 1
        try:
            async with asyncio.timeout(self._gate.limits.head_s):
                request = await self._client.request()
        except TimeoutError:
            if self._asked > 1:
                return None
            raise Refusal(408, "too_slow", "no whole request came in time") from None
        if request is not None:
            self._method = printable(request.method.decode("ascii"), 20)
        return request

    def _authorise(self, request: h11.Request) -> None:
        given = [value for name, value in request.headers if name == b"proxy-authorization"]
        scheme, _, credentials = (given[0] if len(given) == 1 else b"").partition(b" ")
        right = [hmac.compare_digest(credentials.strip(), each) for each in self._credentials]
        if scheme.lower() != b"basic" or not any(right):
            message = "the proxy takes the token of this session only, as the password"
            raise Refusal(407, "credentials", message)

    # --- plain HTTP, and HTTP inside of tunnels that the gateway can read ---

    async def _answer(self, request: h11.Request, target: Target, path: str) -> bool:
        """Carry one request to its host; whether another may follow."""
        headers = end_to_end(request)
        if self._termination is not None:
            path, headers = await self._termination.reveal(target, path, headers)
        server = await self._reach(target)
        try:
            await exchange(
                self._client,
                server.side,
                outgoing(request, target, path, headers),
                edit=self._termination.conceal if self._termination is not None else list,
            )
        except NoAnswer as error:
            message = f"{target.host} gave no answer: {error}"
            raise Refusal(
                502, "unreachable", message, host=target.host, port=target.port, allowed=True
            ) from None
        if not server.side.next_cycle():
            self._drop_server()
        return self._client.next_cycle()

    async def _reach(self, target: Target) -> _Server:
        self.target = target
        self._gate.check(target.host, target.port)
        server = self._server
        if server is not None and server.target == target and not server.side.reader.at_eof():
            self._gate.log.add(
                self._method, target.host, target.port, allowed=True, address=server.address
            )
        else:
            self._drop_server()
            address, streams = await self._gate.connect(self._method, target.host, target.port)
            server = self._server = self._serve_by(target, address, streams)
        if target.secure and self._termination is not None and not server.secured:
            await self._termination.secure(target, server.side.writer)
            server.secured = True
        return server

    def _serve_by(self, target: Target, address: str, streams: Streams) -> _Server:
        side = Side(h11.CLIENT, *streams, self._gate.limits, self._touched)
        return _Server(target, address, side)

    # --- tunnels ---

    async def _tunnel(self, target: Target) -> None:
        self.target = target
        address, server = await self._gate.connect(self._method, target.host, target.port)
        self._server = self._serve_by(target, address, server)
        if self._termination is not None and self._termination.covers(target):
            secure = self._server.target = Target(target.host, target.port, secure=True)
            await self._secure_client(secure, self._termination)
            await self._serve_inside(secure)
            return
        self._writer.write(_ESTABLISHED)
        if target.port == 80:
            await self._serve_inside(target)
        else:
            if target.port == 443:
                hello = await self._allowed_hello(target)
                if hello is None:
                    return
                self._moved(len(hello), 0)
                server[1].write(hello)
            await splice((self._reader, self._writer), server, self._moved)

    async def _secure_client(self, target: Target, termination: Termination) -> None:
        # Made ready first: no byte of the client's TLS may come before ours begins.
        context = await termination.context(target.host)
        self._writer.write(_ESTABLISHED)
        try:
            await termination.accept(context, self._writer)
        except OSError as error:
            reason = f"TLS with the sandbox failed ({type(error).__name__}): it asks for another "
            reason += "host than its tunnel's, or does not trust the session's certificate"
            self._gate.log.add("TLS", target.host, target.port, allowed=False, reason=reason)
            raise

    async def _serve_inside(self, target: Target) -> None:
        """Serve the requests that come in a tunnel, all of which are for its host."""
        limits = self._gate.limits
        self._client = Side(h11.SERVER, self._reader, self._writer, limits, self._moved)
        while (request := await self._next_request()) is not None:
            if not await self._answer(request, target, origin_path(request, target)):
                return

    async def _allowed_hello(self, target: Target) -> bytes | None:
        """The TLS ClientHello, if it is for the tunnel's host; else the tunnel is over."""
        try:
            async with asyncio.timeout(self._gate.limits.head_s):
                hello, name = await read_client_hello(self._reader)
            _check_name(target.host, name)
            return hello
        except NotTls as error:
            reason = str(error)
        except TimeoutError:
            reason = "no TLS ClientHello came in time"
        self._gate.log.add("TLS", target.host, target.port, allowed=False, reason=reason)
        await self._say_last(ACCESS_DENIED)
        return None

    # --- the end ---

    async def _refuse(self, refusal: Refusal) -> None:
        host, port = refusal.host, refusal.port
        self._gate.log.add(
            self._method, host, port, allowed=refusal.allowed, reason=refusal.message
        )
        with contextlib.suppress(OSError):
            await self._say_last(refusal.answer(self._gate.rules.policy.hosts))

    async def _say_last(self, data: bytes) -> None:
        self._writer.write(data)
        if self._writer.can_write_eof():
            self._writer.write_eof()
        # To close with bytes unread would reset the connection, and the answer may be lost.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while await self._reader.read(CHUNK):
                    pass

    def _drop_server(self) -> None:
        if self._server is not None:
            self._server.side.writer.close()
            self._server = None

    def _moved(self, received: int, sent: int) -> None:
        self._touch()
        self._count(received, sent)

    def _touched(self, _received: int, _sent: int) -> None:
        self._touch()

    def _touch(self) -> None:
        self.active = asyncio.get_running_loop().time()


def _check_name(host: str, name: str | None) -> None:
    """Raise `NotTls` unless a TLS client asks for the host that its tunnel is for."""
    if name is None:
        if literal(host) is None:
            raise NotTls("the TLS ClientHello names no host (SNI)")
        return
    try:
        fits = canonical_host(name) == host
    except HostError:
        fits = False
    if not fits:
        raise NotTls(f"the TLS ClientHello asks for {printable(name)!r}, the tunnel is for {host}")
