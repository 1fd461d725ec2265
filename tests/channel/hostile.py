"""A guest that says what a test wants: the host must survive whatever that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sandboxkit.channel.client import GuestClient
from sandboxkit.errors import ConnectionLostError
from sandboxkit.guest import wire
from sandboxkit.providers.base import ByteChannel, Command, Output, SandboxHandle, SandboxInfo

WELCOME: dict[str, Any] = {
    "protocol": wire.PROTOCOL,
    "instance": "i",
    "known": False,
    "pid": 1,
    "user": "u",
    "home": "/",
    "workdir": "/",
    "separate": True,
    "channels": {},
}


class Connection(ByteChannel):
    """One connection: what the host sends is decoded, what the guest says is queued."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[wire.Frame | None] = asyncio.Queue()
        self._said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._decoder = wire.Decoder()
        self._first = True
        self.closed = False

    async def send(self, data: bytes) -> None:
        if self.closed:
            raise ConnectionLostError("closed")
        if self._first:  # the line that carries the guest
            self._first = False
            return
        for frame in self._decoder.feed(data):
            self.heard.put_nowait(frame)

    async def send_eof(self) -> None:
        return

    async def receive(self) -> Output | None:
        data = await self._said.get()
        return None if data is None else Output(1, data)

    async def wait(self) -> int | None:
        return 0

    async def aclose(self) -> None:
        self.closed = True
        self.heard.put_nowait(None)

    # the guest's side

    def say(self, *frames: bytes) -> None:
        for frame in frames:
            self._said.put_nowait(frame)

    def cut(self) -> None:
        self._said.put_nowait(None)

    async def hear(self, kind: int) -> wire.Frame:
        """The next frame of a kind; others are passed over."""
        while True:
            frame = await self.heard.get()
            if frame is None:
                raise ConnectionLostError("the host has closed the connection")
            if frame.kind == kind:
                return frame

    async def welcome(self, **fields: Any) -> wire.Frame:
        """Greet, hear HELLO and answer it."""
        self.say(wire.GREETING)
        hello = await self.hear(wire.HELLO)
        self.say(wire.pack_json(wire.WELCOME, 0, {**WELCOME, **fields}))
        return hello


Script = Callable[[Connection], Awaitable[object]]


class Handle(SandboxHandle):
    """Each connection is served by the next script; the last one serves all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self.info = SandboxInfo(id="s", provider="hostile")
        self._scripts = list(scripts)
        self.tasks: set[asyncio.Task[object]] = set()

    async def spawn(self, command: Command) -> ByteChannel:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        connection = Connection()
        self.tasks.add(asyncio.ensure_future(script(connection)))
        return connection

    async def destroy(self) -> None:
        return


@asynccontextmanager
async def client(*scripts: Script, lease_s: float = 5.0) -> AsyncGenerator[GuestClient]:
    """An open client of such a guest."""
    handle = Handle(*scripts)
    opened = GuestClient(handle, user=None, lease_s=lease_s, settings={})
    try:
        await opened.open()
        yield opened
    finally:
        await opened.aclose(say_bye=False)
        for task in handle.tasks:
            task.cancel()
        await asyncio.gather(*handle.tasks, return_exceptions=True)
