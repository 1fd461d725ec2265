"""A provider whose connections the kit can cut, and whose encoding it can choose.

Nothing of the provider is replaced: each call goes through, each byte is its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator, Mapping
from datetime import datetime
from typing import ClassVar

import anyio

from sandboxkit.errors import ConnectionLostError, ProviderUnavailableError
from sandboxkit.providers.base import (
    ByteChannel,
    Capabilities,
    Command,
    Encoding,
    Exposed,
    Output,
    SandboxHandle,
    SandboxInfo,
    SandboxProvider,
)
from sandboxkit.spec import SandboxSpec


class Line:
    """The connections into one sandbox, as the kit disturbs them.

    Attributes:
        down: Whether new connections are refused.
        spawned: How many connections there have been.
        foreign: What crossed a connection of text that is not a line of ASCII.
    """

    def __init__(self) -> None:
        self.down = False
        self.spawned = 0
        self.foreign: list[bytes] = []
        self._open: set[WiredChannel] = set()

    def cut(self) -> None:
        """Break all open connections, now."""
        for channel in list(self._open):
            channel.cut()

    def cut_after(self, count: int) -> None:
        """Break each open connection when `count` more bytes have crossed it, in the middle."""
        for channel in list(self._open):
            channel.left = count

    def add(self, channel: WiredChannel) -> None:
        """Take note of a new connection."""
        self.spawned += 1
        self._open.add(channel)

    def forget(self, channel: WiredChannel) -> None:
        """Take note that a connection was closed."""
        self._open.discard(channel)


class WiredProvider(SandboxProvider):
    """The provider under test.

    Args:
        inner: It.
        encoding: The encoding that its connections shall use; None is its own.
    """

    interface_version: ClassVar[int] = 1

    def __init__(self, inner: SandboxProvider, encoding: Encoding | None) -> None:
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        self._encoding: Encoding | None = encoding
        self._lines: dict[str, Line] = {}

    def line(self, sandbox_id: str) -> Line:
        """The connections into a sandbox that was made or attached through this object."""
        return self._lines.setdefault(sandbox_id, Line())

    def foreign(self) -> list[bytes]:
        """What has crossed a connection of text and should not have, since the last look."""
        found: list[bytes] = []
        for line in self._lines.values():
            found += line.foreign
            line.foreign.clear()
        return found

    def capabilities(self) -> Capabilities:
        """Those of the provider under test, as is everything below."""
        return self.inner.capabilities()

    def account(self) -> str:
        """See `SandboxProvider`."""
        return self.inner.account()

    async def prepare(self, spec: SandboxSpec) -> None:
        """See `SandboxProvider`."""
        await self.inner.prepare(spec)

    async def create(self, spec: SandboxSpec) -> WiredHandle:
        """See `SandboxProvider`."""
        return self._wired(await self.inner.create(spec))

    async def attach(self, sandbox_id: str) -> WiredHandle:
        """See `SandboxProvider`."""
        return self._wired(await self.inner.attach(sandbox_id))

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """See `SandboxProvider`."""
        async for info in self.inner.list(labels):
            yield info

    async def destroy(self, sandbox_id: str) -> None:
        """See `SandboxProvider`."""
        await self.inner.destroy(sandbox_id)

    async def clock(self) -> datetime | None:
        """See `SandboxProvider`."""
        return await self.inner.clock()

    async def remove_snapshot(self, image: str) -> None:
        """See `SandboxProvider`."""
        await self.inner.remove_snapshot(image)

    async def aclose(self) -> None:
        """See `SandboxProvider`."""
        await self.inner.aclose()

    def _wired(self, handle: SandboxHandle) -> WiredHandle:
        return WiredHandle(handle, self.line(handle.info.id), self._encoding)


class WiredHandle(SandboxHandle):
    """A sandbox of the provider under test."""

    def __init__(self, inner: SandboxHandle, line: Line, encoding: Encoding | None) -> None:
        self.info = inner.info
        self._inner = inner
        self._line = line
        self._encoding: Encoding | None = encoding

    async def spawn(self, command: Command) -> ByteChannel:
        """See `SandboxHandle`."""
        if self._line.down:
            raise ProviderUnavailableError("the kit has taken the line down")
        inner = await self._inner.spawn(command)
        return WiredChannel(inner, self._line, self._encoding or inner.encoding)

    async def destroy(self) -> None:
        """See `SandboxHandle`."""
        await self._inner.destroy()

    async def aclose(self) -> None:
        """See `SandboxHandle`."""
        await self._inner.aclose()

    async def renew(self, seconds: float) -> None:
        """See `SandboxHandle`; with the line down, the host is as good as dead."""
        if self._line.down:
            raise ProviderUnavailableError("the kit has taken the line down")
        await self._inner.renew(seconds)

    async def extend(self, seconds: float) -> None:
        """See `SandboxHandle`."""
        await self._inner.extend(seconds)

    async def pause(self) -> None:
        """See `SandboxHandle`."""
        await self._inner.pause()

    async def resume(self) -> None:
        """See `SandboxHandle`."""
        await self._inner.resume()

    async def snapshot(self, name: str) -> str:
        """See `SandboxHandle`."""
        return await self._inner.snapshot(name)

    async def expose(self, port: int) -> Exposed:
        """See `SandboxHandle`."""
        return await self._inner.expose(port)


class WiredChannel(ByteChannel):
    """A connection of the provider under test.

    Attributes:
        left: Bytes that may still cross it, both directions together; None is no limit.
    """

    def __init__(self, inner: ByteChannel, line: Line, encoding: Encoding) -> None:
        self.encoding = encoding
        self.left: int | None = None
        self._inner = inner
        self._line = line
        self._waiting: set[anyio.CancelScope] = set()
        line.add(self)

    def cut(self) -> None:
        """Break it, also for who is waiting on it now."""
        self.left = 0
        for scope in self._waiting:
            scope.cancel()

    async def send(self, data: bytes) -> None:
        """See `ByteChannel`."""
        if self.encoding == "text_lines" and not (data.isascii() and data.endswith(b"\n")):
            self._line.foreign.append(data[:200])
        piece = self._spend(data)
        if len(piece) < len(data) and self.encoding == "text_lines":
            piece = piece[: piece.rfind(b"\n") + 1]
        if piece:
            with self._interruptible():
                await self._inner.send(piece)
        self._check()

    async def send_eof(self) -> None:
        """See `ByteChannel`."""
        self._check()
        await self._inner.send_eof()

    async def receive(self) -> Output | None:
        """See `ByteChannel`."""
        self._check()
        output: Output | None = None
        with self._interruptible():
            output = await self._inner.receive()
        if output is None:
            self._check()
            return None
        if self.encoding == "text_lines" and output.fd == 1 and not output.data.isascii():
            self._line.foreign.append(output.data[:200])
        piece = self._spend(output.data)
        if not piece:
            self._check()
        return Output(output.fd, piece)

    async def wait(self) -> int | None:
        """See `ByteChannel`."""
        return await self._inner.wait()

    async def aclose(self) -> None:
        """See `ByteChannel`."""
        self._line.forget(self)
        await self._inner.aclose()

    @contextlib.contextmanager
    def _interruptible(self) -> Generator[None]:
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)

    def _spend(self, data: bytes) -> bytes:
        if self.left is None:
            return data
        piece = data[: self.left]
        self.left -= len(piece)
        return piece

    def _check(self) -> None:
        if self.left == 0:
            raise ConnectionLostError("the kit has cut the connection")
