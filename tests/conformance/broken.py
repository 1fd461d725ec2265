"""The Docker provider, broken in one way at a time: what the kit must find."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from sandboxkit.guest import wire
from sandboxkit.providers.base import (
    ByteChannel,
    Capabilities,
    Command,
    Output,
    SandboxHandle,
    SandboxInfo,
    SandboxProvider,
)
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.spec import SandboxSpec


class Broken(SandboxProvider):
    """Passes everything on. A subclass breaks one thing."""

    name: ClassVar[str] = "docker"
    interface_version: ClassVar[int] = 1

    def __init__(self, host: str) -> None:
        self.docker = DockerProvider(host=host)
        self.left: list[SandboxHandle] = []

    def capabilities(self) -> Capabilities:
        return self.docker.capabilities()

    async def prepare(self, spec: SandboxSpec) -> None:
        await self.docker.prepare(spec)

    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        return BrokenHandle(await self.docker.create(spec), self)

    async def attach(self, sandbox_id: str) -> SandboxHandle:
        return BrokenHandle(await self.docker.attach(sandbox_id), self)

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        async for info in self.docker.list(labels):
            yield info

    async def end(self, handle: SandboxHandle) -> None:
        await handle.destroy()

    async def aclose(self) -> None:
        for handle in self.left:  # so that these tests leave nothing
            await handle.destroy()
        await self.docker.aclose()

    def to_guest(self, frame: wire.Frame) -> wire.Frame | None:
        return frame

    def to_host(self, frame: wire.Frame, connection: int) -> wire.Frame | None:
        return frame


class BrokenHandle(SandboxHandle):
    def __init__(self, inner: SandboxHandle, provider: Broken) -> None:
        self.info = inner.info
        self._inner = inner
        self._provider = provider
        self._connections = 0

    async def spawn(self, command: Command) -> ByteChannel:
        channel = await self._inner.spawn(command)
        if "connect" not in command.argv[-1:]:
            return channel
        self._connections += 1
        return BrokenChannel(channel, self._provider, self._connections)

    async def destroy(self) -> None:
        await self._provider.end(self._inner)


class BrokenChannel(ByteChannel):
    """Reads the frames of a connection with the guest, and lets them be changed."""

    def __init__(self, inner: ByteChannel, provider: Broken, number: int) -> None:
        self._inner, self._provider, self._number = inner, provider, number
        self._sent, self._received = wire.Decoder(), wire.Decoder()
        self._bundled = self._greeted = False

    async def send(self, data: bytes) -> None:
        if not self._bundled:
            self._bundled = True
            await self._inner.send(data)
            return
        changed = (self._provider.to_guest(frame) for frame in self._sent.feed(data))
        if frames := b"".join(packed(frame) for frame in changed if frame is not None):
            await self._inner.send(frames)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def receive(self) -> Output | None:
        while (output := await self._inner.receive()) is not None:
            data, head = output.data, b""
            if not self._greeted:
                head, greeting, data = data.partition(wire.GREETING)
                self._greeted = bool(greeting)
                head += greeting
            frames = self._received.feed(data)
            changed = (self._provider.to_host(frame, self._number) for frame in frames)
            if data := head + b"".join(packed(frame) for frame in changed if frame is not None):
                return Output(output.fd, data)
        return None

    async def wait(self) -> int | None:
        return await self._inner.wait()

    async def aclose(self) -> None:
        await self._inner.aclose()


def packed(frame: wire.Frame) -> bytes:
    return wire.pack(frame.kind, frame.channel, frame.payload, frame.stream, frame.offset)


def changed(frame: wire.Frame, **values: Any) -> wire.Frame:
    payload = wire.pack_json(frame.kind, 0, {**frame.json(), **values})
    return frame._replace(payload=wire.Decoder().feed(payload)[0].payload)


def is_program(frame: wire.Frame) -> bool:
    return frame.kind == wire.OPEN and frame.json().get("op") == "exec"


class DropsEmptyArguments(Broken):
    def to_guest(self, frame: wire.Frame) -> wire.Frame | None:
        if is_program(frame):
            return changed(frame, argv=[word for word in frame.json()["argv"] if word])
        return frame


class MergesStderrIntoStdout(Broken):
    def to_guest(self, frame: wire.Frame) -> wire.Frame | None:
        if is_program(frame):
            return changed(frame, argv=["sh", "-c", 'exec "$@" 2>&1', "sh", *frame.json()["argv"]])
        return frame


class DropsTheEndOfStdin(Broken):
    def __init__(self, host: str) -> None:
        super().__init__(host)
        self._programs: set[int] = set()

    def to_guest(self, frame: wire.Frame) -> wire.Frame | None:
        if is_program(frame):
            self._programs.add(frame.channel)
        return None if frame.kind == wire.EOF and frame.channel in self._programs else frame


class KillsTheLeaderAlone(Broken):
    def to_guest(self, frame: wire.Frame) -> wire.Frame | None:
        if frame.kind == wire.CALL and "kill" in frame.json():
            packed = wire.pack_json(wire.CALL, frame.channel, {"signal": 9}, frame.offset)
            return wire.Decoder().feed(packed)[0]
        return frame


class NeverLosesItsHost(Broken):
    def to_guest(self, frame: wire.Frame) -> wire.Frame | None:
        if frame.kind in {wire.HELLO, wire.LEASE}:
            return changed(frame, lease_s=3600)
        return frame


class InventsExitCodeZero(Broken):
    def to_host(self, frame: wire.Frame, connection: int) -> wire.Frame | None:
        if frame.kind == wire.DONE and "exit" in frame.json():
            return changed(frame, exit=0)
        return frame


class LosesBytesAtReconnect(Broken):
    def __init__(self, host: str) -> None:
        super().__init__(host)
        self._lost: set[int] = set()

    def to_host(self, frame: wire.Frame, connection: int) -> wire.Frame | None:
        if connection > 1 and connection not in self._lost and frame.kind == wire.DATA:
            self._lost.add(connection)
            return None
        return frame


class ListsWhateverThereIs(Broken):
    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        async for info in self.docker.list({}):
            yield info


class LeavesWhatItDestroys(Broken):
    async def end(self, handle: SandboxHandle) -> None:
        self.left.append(handle)


class ClaimsALimit(Broken):
    def capabilities(self) -> Capabilities:
        can = super().capabilities()
        return replace(can, limits=can.limits | {"disk_gib"})
