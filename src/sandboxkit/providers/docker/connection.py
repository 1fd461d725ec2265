"""Byte streams to a Docker engine: a socket, TLS over it, or ssh."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final

import anyio
from anyio.abc import ByteStream, Process

from sandboxkit.concurrency import run_to_end
from sandboxkit.providers.docker.endpoint import Endpoint

READ: Final = 256 * 1024  # bytes asked for at a time: fewer wake-ups, faster output
_GRACE_S = 2.0  # for ssh to end by itself
_KILL_S = 5.0


async def connect(endpoint: Endpoint) -> ByteStream:
    """Open one connection. The caller sets the deadline.

    Raises:
        OSError: Nobody answers there, or TLS fails.
    """
    parts = endpoint.parts
    if parts.scheme == "unix":
        return _Socket(*await asyncio.open_unix_connection(parts.path, limit=READ))
    if parts.scheme == "ssh":
        return await _Ssh.connect(endpoint)
    host, port = parts.hostname or "localhost", parts.port or (2376 if endpoint.tls else 2375)
    plain = _Socket(*await asyncio.open_connection(host, port, limit=READ))
    if endpoint.tls_context is None:
        return plain
    try:
        return await _Tls.connect(plain, endpoint.tls_context, host)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(plain)
        raise


class _Socket(ByteStream):
    """A socket by asyncio's streams: a third less of our time than by anyio's.

    One that is cancelled while it is connected is closed, by any version of asyncio.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def receive(self, max_bytes: int = READ) -> bytes:
        data = await self._reader.read(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        self._writer.write(item)
        await self._writer.drain()

    async def send_eof(self) -> None:
        self._writer.write_eof()

    async def aclose(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # it was broken already
        except BaseException:
            self._writer.transport.abort()  # whatever was not sent yet is given up
            raise


class _Tls(ByteStream):
    """TLS that can end one direction: what a program's end of input needs.

    anyio's and asyncio's own TLS streams end both at once. TLS itself does not: the
    sender says "close notify" and goes on reading.
    """

    def __init__(self, transport: ByteStream, context: ssl.SSLContext, host: str) -> None:
        self._transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._sending = anyio.Lock()
        self._ready: list[bytes] = []  # decrypted, not asked for yet

    @classmethod
    async def connect(cls, transport: ByteStream, context: ssl.SSLContext, host: str) -> _Tls:
        stream = cls(transport, context, host)
        while True:
            try:
                stream._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await stream._flush()
                try:
                    stream._incoming.write(await transport.receive(READ))
                except anyio.EndOfStream as error:
                    raise ConnectionError("the engine ended the TLS handshake") from error
        await stream._flush()
        return stream

    async def _flush(self) -> None:
        async with self._sending:  # in order, though the receiver may flush too
            if data := self._outgoing.read():
                await self._transport.send(data)

    async def receive(self, max_bytes: int = READ) -> bytes:
        while True:
            if self._ready:
                return self._ready.pop(0)
            try:
                data = self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                await self._flush()
                try:
                    self._incoming.write(await self._transport.receive(READ))
                except anyio.EndOfStream:
                    self._incoming.write_eof()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError) as error:
                raise anyio.EndOfStream from error
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        self._tls.write(item)
        await self._flush()

    async def send_eof(self) -> None:
        # OpenSSL fails a half-close while decrypted data waits: take it out first.
        with contextlib.suppress(ssl.SSLError):  # nothing waits, or the other side has ended
            while data := self._tls.read(READ):
                self._ready.append(data)
        with contextlib.suppress(ssl.SSLError):  # the other side's answer comes when it ends
            self._tls.unwrap()
        await self._flush()

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Ssh(ByteStream):
    """`docker system dial-stdio` on the engine's machine, as the docker command does."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("ssh was started without pipes")
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout

    @classmethod
    async def connect(cls, endpoint: Endpoint) -> _Ssh:
        parts = endpoint.parts
        argv = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-T"]
        argv += ["-l", parts.username] if parts.username else []
        argv += ["-p", str(parts.port)] if parts.port else []
        argv += ["--", parts.hostname or "", "docker", "system", "dial-stdio"]
        return cls(await anyio.open_process(argv, stderr=None))

    async def receive(self, max_bytes: int = READ) -> bytes:
        return await self._stdout.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stdin.send(item)

    async def send_eof(self) -> None:
        await self._stdin.aclose()

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await run_to_end(self._end(), deadline_s=_GRACE_S + _KILL_S)

    async def _end(self) -> None:
        await self._stdin.aclose()
        with anyio.move_on_after(_GRACE_S):
            await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.aclose()
