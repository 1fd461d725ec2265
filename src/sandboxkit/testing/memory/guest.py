"""The guest in memory: hosts, their connections and channels, one sandbox's state."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import posixpath
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator

from sandboxkit.errors import ConnectionLostError
from sandboxkit.guest import wire
from sandboxkit.providers.base import ByteChannel, Output
from sandboxkit.testing.memory.channels import Channel, Client, Json, failure
from sandboxkit.testing.memory.commands import Call, Handler
from sandboxkit.testing.memory.files import MemoryFiles
from sandboxkit.testing.memory.idleness import Hold, Idleness, Sleeper
from sandboxkit.testing.memory.work import FileOperation, Program

HOME = "/home/sandbox"
USER = "sandbox"
_MOST = 1024 * 1024  # bytes in one piece of output

Respond = Callable[[Call], Handler | None]


class Connection(ByteChannel):
    """A connector and its two pipes, in memory."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._greeted = False
        self._decoder = wire.Decoder()
        self._out: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self.closed = False

    async def send(self, data: bytes) -> None:
        """Hand frames to the guest."""
        if self.closed:
            raise ConnectionLostError("the connection has ended", op="send")
        if not self._greeted:
            # The first line is a guest's code: this one is here already.
            _code, newline, data = data.partition(b"\n")
            if not newline:
                return
            self._greeted = True
            self.put(wire.GREETING)
        try:
            for frame in self._decoder.feed(data):
                self._guest.on_frame(self, frame)
        except wire.WireError:
            self.close()
        await asyncio.sleep(0)

    async def send_eof(self) -> None:
        """The host sends no more: the guest lets go of the connection."""
        self.close()

    async def receive(self) -> Output | None:
        """What the guest says."""
        while not self._out:
            if self.closed:
                return None
            self._filled.clear()
            await self._filled.wait()
        data = self._out.popleft()
        while self._out and len(data) + len(self._out[0]) <= _MOST:
            data += self._out.popleft()
        return Output(1, data)

    async def wait(self) -> int | None:
        """Nothing ran, so there is no exit code."""
        return None

    async def aclose(self) -> None:
        """Let go."""
        self.close()

    def put(self, data: bytes) -> None:
        """Queue bytes for the host."""
        self._out.append(data)
        self._filled.set()

    def drop(self) -> None:
        """Lose what the host has not received."""
        self._out.clear()

    def close(self) -> None:
        """End it, from either side."""
        if not self.closed:
            self.closed = True
            self._guest.disconnected(self)
            self._filled.set()


class Guest:
    """One sandbox.

    Args:
        sandbox_id: Its id.
        files: Its files.
        respond: Notes a call, and finds the command for it.
    """

    def __init__(self, sandbox_id: str, files: MemoryFiles, respond: Respond) -> None:
        self._id = sandbox_id
        self._files = files
        self._respond = respond
        self._instance = secrets.token_hex(8)
        self._clients: dict[str, Client] = {}
        self._connections: dict[Connection, Client | None] = {}
        self._detached: dict[str, Program] = {}
        self._settings: Json = {}
        self._started = time.monotonic()
        self._idleness = Idleness(self._channels, lambda: self._settings.get("idle_timeout_s"))
        self._pids = itertools.count(2)

    def connect(self) -> Connection:
        """A new connection."""
        connection = Connection(self)
        self._connections[connection] = None
        return connection

    def disconnected(self, connection: Connection) -> None:
        """Called by a connection that has ended."""
        client = self._connections.pop(connection, None)
        if client is not None and client.output is connection:
            client.output = None

    def cut(self) -> None:
        """All connections break, and what was under way in them is lost."""
        for connection in list(self._connections):
            connection.drop()
            connection.close()

    def end(self) -> None:
        """The sandbox ends, and all in it."""
        for client in self._clients.values():
            for channel in client.channels.values():
                channel.close()
        for program in self._detached.values():
            program.close()
        for connection in list(self._connections):
            connection.close()

    # frames

    def on_frame(self, connection: Connection, frame: wire.Frame) -> None:
        """Take a frame of a host's."""
        if frame.kind == wire.HELLO:
            self._hello(connection, frame.json())
            return
        client = self._connections.get(connection)
        if client is None:
            raise wire.WireError("the first frame must be HELLO")
        channel = client.channels.get(frame.channel)
        if frame.kind == wire.LEASE:
            echo = {"left_s": self._left_s()}
            client.send(wire.pack_json(wire.LEASE, 0, echo, frame.offset))
        elif frame.kind == wire.BYE:
            self._leave(client)
            connection.put(wire.pack_json(wire.BYE, 0, {}))
            connection.close()
        elif frame.kind == wire.OPEN:
            if channel is None:
                self._open(client, frame.channel, frame.json())
        elif channel is not None and frame.kind == wire.CLOSE:
            self._close(client, channel)
        elif channel is not None:
            channel.on_frame(frame)

    def _hello(self, connection: Connection, hello: Json) -> None:
        token = str(hello["client"])
        known = token in self._clients
        client = self._clients.setdefault(token, Client(token))
        self._connections[connection] = client
        client.output = connection
        if not self._settings:
            self._settings = dict(hello.get("settings") or {})
            for path in (HOME, self._workdir, "/tmp"):  # noqa: S108 - a path in memory
                self._files.make_dir(path)
        received: Json = hello.get("channels") or {}
        for number in client.channels.keys() - {int(number) for number in received}:
            self._close(client, client.channels[number])
        channels = {str(number): channel.progress() for number, channel in client.channels.items()}
        welcome = {
            "protocol": wire.PROTOCOL,
            "instance": self._instance,
            "known": known,
            "pid": 1,
            "user": self._settings.get("user") or USER,
            "home": HOME,
            "workdir": self._workdir,
            "separate": True,
            "left_s": self._left_s(),
            "channels": channels,
        }
        client.send(wire.pack_json(wire.WELCOME, 0, welcome))
        for number, channel in client.channels.items():
            channel.resume(received.get(str(number), {}))

    def _leave(self, client: Client) -> None:
        client.output = None
        self._clients.pop(client.token, None)
        for channel in list(client.channels.values()):
            self._close(client, channel, leaving=True)

    def _close(self, client: Client, channel: Channel, *, leaving: bool = False) -> None:
        del client.channels[channel.number]
        if isinstance(channel, Program) and channel.detach and (leaving or channel.alive):
            channel.set_adrift()
            self._detached[channel.id] = channel
        else:
            channel.close()
            self._idleness.ended(channel)

    # channels

    @property
    def _workdir(self) -> str:
        return str(self._settings.get("workdir") or HOME)

    @property
    def _env(self) -> dict[str, str]:
        return dict(self._settings.get("env") or {})

    def _open(self, client: Client, number: int, request: Json) -> None:
        kind = request["op"]
        if kind == "exec":
            client.channels[number] = self._program(client, number, request)
        elif kind == "file":
            files = self._files.at(self._workdir)
            client.channels[number] = FileOperation(client, number, request, files)
        elif kind == "adopt":
            client.channels[number] = self._adopt(client, number, str(request["process"]))
        elif kind == "hold":
            client.channels[number] = Hold(client, number)
        elif kind == "sleeper":
            client.channels[number] = Sleeper(client, number, self._idleness.activity)
        elif kind == "processes":
            client.channels[number] = channel = Channel(client, number)
            channel.say_done({"processes": self._processes()})
        elif kind == "settings":
            self._settings |= {**request, "env": {**self._env, **request.get("env", {})}}
            self._started = time.monotonic()
            client.channels[number] = channel = Channel(client, number)
            channel.say_done({})
        elif kind in {"extend", "health"}:
            client.channels[number] = channel = Channel(client, number)
            channel.say_done(self._extend(request) if kind == "extend" else {"listening": []})
        else:
            message = "a sandbox in memory has no ports" if kind in {"connect", "listen"} else kind
            client.channels[number] = refused(client, number, "unsupported", message)
        self._idleness.began(client.channels[number], request)

    def _channels(self) -> Iterator[Channel]:
        for client in self._clients.values():
            yield from client.channels.values()
        yield from self._detached.values()

    def _extend(self, request: Json) -> Json:
        """Nothing ends by itself here; that it would is all there is to tell."""
        lifetime = self._settings.get("lifetime_s")
        if lifetime:
            self._settings["lifetime_s"] = float(lifetime) + float(request["seconds"])
        return {"left_s": self._left_s()}

    def _left_s(self) -> float | None:
        lifetime = self._settings.get("lifetime_s")
        return self._started + float(lifetime) - time.monotonic() if lifetime else None

    def _program(self, client: Client, number: int, request: Json) -> Channel:
        cwd = posixpath.join(self._workdir, request.get("cwd") or "")
        user = {"HOME": HOME, "USER": USER, "LOGNAME": USER}
        call = Call(
            argv=tuple(request["argv"]),
            env={**user, **self._env, **request.get("env", {})},
            cwd=posixpath.normpath(cwd),
            user=request.get("user"),
            sandbox_id=self._id,
            files=self._files.at(cwd),
        )
        try:
            self._files.directory(cwd)
        except OSError as error:
            message = f"cannot enter the directory {cwd}: {error.strerror}"
            return refused(client, number, "bad_cwd", message, error.errno)
        handler = self._respond(call)
        if handler is None:
            message = f"cannot start {call.argv[0]}: {os.strerror(errno.ENOENT)}"
            hint = f"(a MemoryProvider knows what .on() told it, and not {call.argv!r})"
            return refused(client, number, "not_found", f"{message} {hint}", errno.ENOENT)
        return Program(client, number, request, call, handler=handler, pid=next(self._pids))

    def _adopt(self, client: Client, number: int, process: str) -> Channel:
        program = self._detached.pop(process, None)
        if program is None:
            held = next((one for one in self._held() if one.id == process and one.detach), None)
            if held is None:
                message = f"there is no detached process {process}"
                return refused(client, number, "not_found", message)
            holder = held.client
            if holder is client or holder.output is not None:
                return refused(client, number, "held", "it is held by another host")
            taken = refused(holder, held.number, "taken", "another host has taken it up")
            holder.channels[held.number] = taken
            held.set_adrift()
            program = held
        program.adopt(client, number)
        return program

    def _held(self) -> Iterator[Program]:
        for client in self._clients.values():
            yield from (each for each in client.channels.values() if isinstance(each, Program))

    def _processes(self) -> list[Json]:
        held = [program.shown(detached=False) for program in self._held()]
        return held + [program.shown(detached=True) for program in self._detached.values()]


def refused(
    client: Client, number: int, code: str, message: str, cause: int | None = None
) -> Channel:
    """A channel that ends before it began."""
    channel = Channel(client, number, (wire.STDOUT, wire.STDERR))
    channel.say_done(failure(code, message, cause))
    return channel
