"""The machines behind the emulated clouds: each is a real container on the tests' engine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import docker
import docker.errors

from sandboxkit.concurrency import obtain, run_to_end
from sandboxkit.ownership import owner
from sandboxkit.providers.base import ByteChannel, Output
from sandboxkit.providers.docker.containers import look_at_exec, remove
from sandboxkit.providers.docker.engine import Engine
from sandboxkit.providers.docker.images import Images
from sandboxkit.providers.docker.stream import HijackedChannel
from sandboxkit.spec import OWNER_LABEL

_MIB = 1024 * 1024
_CREATE_S = 60.0
# Says its pid before it becomes the program: Docker knows it only by the host's number.
_TELL_PID = 'echo $$ >&2; exec "$0" "$@"'
# A service's port is reached through a program inside, so that no network is needed.
_RELAY = """
import os, select, socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sources = [0, peer]
while peer in sources:
    for source in select.select(sources, [], [])[0]:
        if source is peer:
            data = peer.recv(65536)
            if data:
                view = memoryview(data)
                while view:
                    view = view[os.write(1, view):]
        else:
            data = os.read(0, 65536)
            if data:
                peer.sendall(data)
            else:
                peer.shutdown(socket.SHUT_WR)
        if not data:
            sources.remove(source)
"""


class MachineGone(Exception):
    """The container has ended."""


class StartFailed(Exception):
    """The program could not be started; the message is the engine's."""


class Machines:
    """All machines of one emulator, on the engine at `host`."""

    def __init__(self, host: str) -> None:
        self.engine = Engine(host)
        self.images = Images(self.engine)
        self.alive: dict[str, Machine] = {}
        self._docker: Any = docker.APIClient(base_url=host, timeout=60)

    async def create(
        self,
        *,
        image: str | None = None,
        entry: Sequence[str] = ("sleep", "infinity"),
        env: Mapping[str, str] | None = None,
        cpus: float = 2.0,
        memory_mib: int = 512,
        network: bool = False,
        user: str = "0",
        setup: str = "",
    ) -> Machine:
        """Make and start one.

        Args:
            image: An image of the engine, or the id of a commit; None is the base image.
            entry: Its main program; when that ends, so does the machine.
            env: Environment of all its programs.
            cpus: Its limit.
            memory_mib: Its limit.
            network: Whether it is on the engine's bridge.
            user: Who the main program runs as.
            setup: A line of shell that root runs before anything else (to make a user).
        """
        resolved = await self.images.resolve(image)
        body: dict[str, Any] = {
            "Image": resolved.id,
            "Entrypoint": list(entry),
            "Cmd": [],
            "User": user,
            "Env": [f"{name}={value}" for name, value in (env or {}).items()],
            "Labels": {OWNER_LABEL: owner()},
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "Init": True,
                "NanoCpus": int(cpus * 1e9),
                "Memory": memory_mib * _MIB,
                "MemorySwap": memory_mib * _MIB,
                "NetworkMode": "bridge" if network else "none",
                "LogConfig": {"Type": "none", "Config": {}},
            },
        }
        name = f"emulated-{secrets.token_hex(6)}"
        machine = await obtain(
            self._make(body, name), release=lambda machine: machine.remove(), deadline_s=_CREATE_S
        )
        try:
            await self.call("start", machine.id)
            if setup:
                await machine.run(["sh", "-ec", setup], user="0")
        except BaseException:
            await run_to_end(machine.remove(), deadline_s=_CREATE_S)
            raise
        self.alive[machine.id] = machine
        return machine

    async def _make(self, body: dict[str, Any], name: str) -> Machine:
        made = await self.call("create_container_from_config", body, name)
        return Machine(self, str(made["Id"])[:12])

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method of docker-py, in a thread."""
        work = partial(getattr(self._docker, method), *args, **kwargs)
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=False)

    async def remove_image(self, image: str) -> None:
        """Remove a commit, not those that it was made from; gone already is success."""
        try:
            await self.call("remove_image", image, force=True, noprune=True)
        except docker.errors.ImageNotFound:
            return

    async def aclose(self) -> None:
        """Remove all machines."""
        for machine in list(self.alive.values()):
            await machine.remove()
        await self.engine.aclose()
        self._docker.close()


class Machine:
    """One container.

    Attributes:
        id: The engine's.
    """

    def __init__(self, machines: Machines, container: str) -> None:
        self.id = container
        self._machines = machines

    async def running(self) -> bool:
        """Whether its main program runs (a paused one counts)."""
        try:
            found = await self._machines.call("inspect_container", self.id)
        except docker.errors.NotFound:
            return False
        return bool(found["State"]["Running"])

    async def wait(self) -> int:
        """The exit code of its main program; 137 once it was removed."""
        while True:
            try:
                found = await self._machines.call("inspect_container", self.id)
            except docker.errors.NotFound:
                return 137
            if not found["State"]["Running"]:
                return int(found["State"]["ExitCode"])
            await anyio.sleep(0.2)

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str = "0",
    ) -> Program:
        """Start a program, with its streams connected.

        Raises:
            MachineGone: The container has ended, or is paused.
            StartFailed: No such user, directory or program.
        """
        try:
            made = await self._machines.call(
                "exec_create",
                self.id,
                ["/bin/sh", "-c", _TELL_PID, *argv],
                stdin=True,
                user=user,
                environment=[f"{name}={value}" for name, value in (env or {}).items()],
                workdir=cwd,
            )
        except docker.errors.APIError as error:
            raise MachineGone(str(error)) from error
        exec_id = str(made["Id"])
        connection, first = await self._machines.engine.open(
            "spawn", f"/exec/{exec_id}/start", {"Detach": False, "Tty": False}, self.id
        )
        look = partial(look_at_exec, self._machines.engine, self.id, exec_id)
        program = Program(self, HijackedChannel(connection, first, look, self.id))
        try:
            await program.read_pid()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await program.aclose()
            raise
        return program

    async def run(
        self, argv: Sequence[str], *, user: str = "0", stdin: bytes = b"", cwd: str | None = None
    ) -> tuple[int, bytes, bytes]:
        """Run a program to its end: its exit code, stdout and stderr."""
        program = await self.start(argv, user=user, cwd=cwd)
        pieces: list[Output] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(program.feed, stdin)
                pieces += [piece async for piece in program]
            code = await program.wait()
        finally:
            await program.aclose()
        said = {1: b"", 2: b""}
        for fd in said:
            said[fd] = b"".join(piece.data for piece in pieces if piece.fd == fd)
        return code, said[1], said[2]

    async def put(self, folder: str, archive: bytes) -> None:
        """Unpack a tar archive in a directory that there is."""
        await self._machines.call("put_archive", self.id, folder, archive)

    async def connect(self, port: int) -> Program:
        """A connection with a port inside: bytes go in by `send`, and come out as fd 1."""
        return await self.start(["python3", "-c", _RELAY, str(port)])

    async def pause(self) -> None:
        """Freeze it."""
        await self._machines.call("pause", self.id)

    async def unpause(self) -> None:
        """Let it go on."""
        await self._machines.call("unpause", self.id)

    async def commit(self) -> str:
        """Its files as an image, which the caller must remove again."""
        made = await self._machines.call("commit", self.id)
        return str(made["Id"])

    async def remove(self) -> None:
        """End and remove it; gone already is success."""
        await remove(self._machines.engine, self.id)
        self._machines.alive.pop(self.id, None)  # now: cancelled before, it is removed at the end


class Program:
    """A program in a machine.

    Attributes:
        pid: As the machine counts.
    """

    def __init__(self, machine: Machine, channel: ByteChannel) -> None:
        self.pid = 0
        self._machine = machine
        self._channel = channel
        self._pushed_back: list[Output] = []

    def __aiter__(self) -> Program:
        return self

    async def __anext__(self) -> Output:
        output = await self.receive()
        if output is None:
            raise StopAsyncIteration
        return output

    async def read_pid(self) -> None:
        said, early = b"", list[Output]()  # stdout may overtake the line with the pid
        while b"\n" not in said:
            output = await self._channel.receive()
            if output is None:
                why = b"".join(piece.data for piece in early) + said
                if not why:  # an engine that refuses says so; the container was killed just now
                    raise MachineGone(self._machine.id)
                raise StartFailed(why.decode(errors="replace"))
            if output.fd == 2:
                said += output.data
            else:
                early.append(output)
        line, _, rest = said.partition(b"\n")
        if not line.isdigit():
            raise StartFailed(said.decode(errors="replace"))
        self.pid = int(line)
        if rest:
            early.append(Output(2, rest))
        self._pushed_back = early[::-1]

    async def receive(self) -> Output | None:
        """The next piece of its output, or None at the end of both streams."""
        if self._pushed_back:
            return self._pushed_back.pop()
        return await self._channel.receive()

    async def send(self, data: bytes) -> None:
        """Write to its stdin."""
        await self._channel.send(data)

    async def send_eof(self) -> None:
        """End its stdin."""
        await self._channel.send_eof()

    async def feed(self, data: bytes) -> None:
        """Write all of its stdin."""
        if data:
            await self.send(data)
        await self.send_eof()

    async def wait(self) -> int:
        """Its exit code as a shell counts: 128 and the signal that ended it."""
        code = await self._channel.wait()
        if code is None:
            return 137
        return 128 - code if code < 0 else code

    async def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        await self._machine.run(["sh", "-c", f"kill -{number} {self.pid}"])

    async def aclose(self) -> None:
        """Let go of its streams; it may run on."""
        await self._channel.aclose()
