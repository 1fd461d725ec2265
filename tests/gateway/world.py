"""The world outside of a sandbox, on loopback: hosts with public names and real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sandboxkit.gateway import Egress
from sandboxkit.spec import NetworkPolicy

PUBLIC = "93.184.215.14"
OTHER_PUBLIC = "151.101.1.140"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Certificates:
    """A certificate authority, and what it issues."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the world")])
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = directory / "world.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    def server(self, host: str) -> ssl.SSLContext:
        """A server's TLS context for one host."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            self._builder(x509.Name([]), key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        file = self._directory / f"{host}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def trust(self) -> ssl.SSLContext:
        """A client's TLS context that trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.ca_file))


@dataclass(frozen=True)
class Seen:
    """A request as a server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class _TlsSocket(ssl.SSLSocket):
    """Closed also where the client has reset the connection before TLS began.

    `ssl` looks for data on a socket that is no longer connected, and forgets the socket
    if that fails.
    """

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ConnectionError:
            self.close()
            raise


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    connections = 0
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, in its thread."""
        self.connections += 1
        if self.context is None:
            super().finish_request(request, client_address)
            return
        self.context.sslsocket_class = _TlsSocket
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that break off are part of the tests."""


class Origin:
    """A real HTTP server, with TLS if it has a context; it says what it was asked.

    Args:
        context: For TLS.
        handler: Answers in place of the handler that says what it was asked.
    """

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        *,
        handler: type[BaseHTTPRequestHandler] | None = None,
    ) -> None:
        self.seen: list[Seen] = []
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return body
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _serve(self) -> None:
                body = self._body()
                origin.seen.append(Seen(self.command, self.path, dict(self.headers), body))
                path = self.path.partition("?")[0]
                if path.startswith("/to/"):
                    self.send_response(302)
                    self.send_header("Location", "http://" + path.removeprefix("/to/"))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                if path == "/chunked":
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
                    return
                if path == "/until-closed":
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self.wfile.write(b"the end is the end")
                    return
                if path == "/echo-headers":
                    self.send_header("X-Echo", self.headers.get("Authorization", ""))
                answer = body or b"hello from %s" % self.headers.get("Host", "").encode()
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), handler or Handler)
        self._server.context = context
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many there have been."""
        return self._server.connections

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serving(directory: Path) -> type[BaseHTTPRequestHandler]:
    """A handler for `Origin` that serves the files of a directory."""

    class Files(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(directory))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    return Files


@dataclass
class World:
    """Names, addresses, and where on loopback each address and port really is."""

    names: dict[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    places: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    asked: list[str] = field(default_factory=list[str])
    dialled: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The resolver of this world."""
        self.asked.append(host)
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    async def dial(
        self, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Lead a public address to loopback."""
        self.dialled.append((address, port))
        place = self.places.get((address, port))
        if place is None:
            raise ConnectionRefusedError(111, "Connection refused")
        return await asyncio.open_connection("127.0.0.1", place, limit=65536)

    def egress(self, policy: NetworkPolicy | Sequence[str], **options: Any) -> Egress:
        """A proxy into this world."""
        if not isinstance(policy, NetworkPolicy):
            policy = NetworkPolicy.allow(policy)
        return Egress(policy, resolve=self.resolve, dial=self.dial, **options)

    @contextlib.asynccontextmanager
    async def tcp(self, address: str, port: int, serve: Serve) -> AsyncGenerator[None]:
        """A TCP server at a public address and port."""
        tasks: set[asyncio.Task[None]] = set()

        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await serve(reader, writer)
            writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(run(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.places[address, port] = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Client:
    """A client that sends exactly the bytes that it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, egress: Egress) -> Client:
        """Connect to the proxy."""
        return cls(*await asyncio.open_connection("127.0.0.1", egress.port))

    async def send(self, *parts: bytes) -> None:
        """Send."""
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def head(self) -> bytes:
        """The head of the next answer; what there is, if it ends before."""
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def rest(self) -> bytes:
        """All that comes until the end; a reset counts as one."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while more := await self.reader.read(65536):
                data += more
        return data

    def close(self) -> None:
        """Close."""
        self.writer.close()


def credentials(egress: Egress) -> bytes:
    """The header field that lets a request in."""
    import base64

    encoded = base64.b64encode(f"sandboxkit:{egress.token}".encode())
    return b"Proxy-Authorization: Basic " + encoded + b"\r\n"


async def say(egress: Egress, request_line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    """All that the proxy answers to one request."""
    client = await Client.open(egress)
    if request_line.startswith(b"CONNECT") and not fields:
        fields = (b"Host: " + request_line.split(b" ")[1],)
    lines = b"".join(part + b"\r\n" for part in fields)
    await client.send(request_line, b"\r\n", credentials(egress), lines, b"\r\n", body)
    client.writer.write_eof()
    answer = await client.rest()
    client.close()
    return answer


async def tunnel(egress: Egress, authority: str) -> Client:
    """A client for which a tunnel has been made."""
    client = await Client.open(egress)
    line = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    await client.send(line.encode(), credentials(egress), b"\r\n")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 "), head
    return client


def proxy_url(egress: Egress) -> str:
    """The proxy as clients are told it."""
    return f"http://sandboxkit:{egress.token}@127.0.0.1:{egress.port}"


async def curl(egress: Egress, *arguments: str | Path) -> tuple[int, str, str]:
    """Run the real curl through the proxy: exit code, output, what it says."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-q", "--noproxy", "", "-m", "30", "--proxy", proxy_url(egress)),
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()
