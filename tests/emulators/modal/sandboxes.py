"""The sandboxes of the account, each with its machine, from creation to end."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import ssl
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from sandboxkit.errors import SandboxError
from tests.emulators.machines import Machine, MachineGone, Machines
from tests.emulators.modal.definition import Limits
from tests.emulators.modal.dockerfile import Layer
from tests.emulators.modal.images import Images
from tests.emulators.modal.programs import Exec
from tests.emulators.modal.tunnels import Tunnels
from tests.emulators.modal.wire import Spawn

Result = api.GenericResult

_EXIT_CODES = {Result.GENERIC_STATUS_TIMEOUT: 124, Result.GENERIC_STATUS_TERMINATED: 137}
_IDLE_LOOK_S = 0.2


@dataclass(eq=False)
class Sandbox:
    """One sandbox.

    Attributes:
        id: Of the form that the SDK takes for version 2.
        task_id: What the command router knows it by.
        app_id: The app that it is in.
        definition: As it was asked for.
        tags: As they are now.
        env: Of all its programs.
        limits: What its machine has.
        created_at: Unix time; no two have the same.
    """

    id: str
    task_id: str
    app_id: str
    definition: api.Sandbox
    tags: dict[str, str]
    env: dict[str, str]
    limits: Limits
    created_at: float
    entry: Exec = field(default_factory=Exec)
    execs: dict[str, Exec] = field(default_factory=dict[str, Exec])
    result: api.GenericResult | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    active_at: float = field(default_factory=time.monotonic)
    machine: Machine | None = None
    tunnels: Tunnels | None = None
    mounts: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def name(self) -> str:
        """Its name in its app, or an empty string."""
        return self.definition.name

    @property
    def cwd(self) -> str:
        """Where its programs start by default."""
        return self.limits.workdir

    def info(self) -> api.SandboxInfo:
        """What a list tells of it."""
        return api.SandboxInfo(
            id=self.id,
            created_at=self.created_at,
            app_id=self.app_id,
            name=self.name,
            image_id=self.definition.image_id,
            timeout_secs=self.definition.timeout_secs,
            task_info=api.TaskInfo(id=self.task_id),
            tags=self.tag_messages(),
            metadata=self.metadata(),
        )

    def metadata(self) -> api.SandboxHandleMetadata:
        """What a handle is made from."""
        return api.SandboxHandleMetadata(app_id=self.app_id, result=self.result)

    def tag_messages(self) -> list[api.SandboxTag]:
        """Its tags, as they are sent."""
        return [api.SandboxTag(tag_name=name, tag_value=self.tags[name]) for name in self.tags]


class Sandboxes:
    """All sandboxes, the ended ones too."""

    def __init__(
        self, machines: Machines, images: Images, spawn: Spawn, context: ssl.SSLContext
    ) -> None:
        self.all: dict[str, Sandbox] = {}
        self._machines, self._images, self._spawn = machines, images, spawn
        self._counter = itertools.count()
        self._context = context  # of the tunnels
        self._ending: set[asyncio.Task[Any]] = set()

    def get(self, sandbox_id: str) -> Sandbox:
        """The sandbox of an id, ended or not."""
        sandbox = self.all.get(sandbox_id)
        if sandbox is None:
            raise GRPCError(Status.NOT_FOUND, f"Sandbox {sandbox_id} not found")
        return sandbox

    def of_task(self, task_id: str) -> tuple[Sandbox, Machine]:
        """The running sandbox of a task, and its machine."""
        for sandbox in self.all.values():
            if sandbox.task_id == task_id and sandbox.result is None and sandbox.machine:
                sandbox.active_at = time.monotonic()
                return sandbox, sandbox.machine
        raise GRPCError(Status.NOT_FOUND, f"Task {task_id} was not found or has finished")

    def running(self) -> list[Sandbox]:
        """Those that have not ended, those being created among them."""
        return [sandbox for sandbox in self.all.values() if sandbox.result is None]

    def named(self, app_id: str, name: str) -> Sandbox | None:
        """The running sandbox of this name."""
        for sandbox in self.running():
            if sandbox.app_id == app_id and sandbox.name == name:
                return sandbox
        return None

    async def create(
        self, app_id: str, definition: api.Sandbox, tags: dict[str, str], env: dict[str, str]
    ) -> Sandbox:
        """Make one from a definition that is right in itself.

        Raises:
            GRPCError: There is no such image, or the name is taken.
        """
        layer = self._images.usable(definition.image_id).layer
        if definition.name and self.named(app_id, definition.name):
            raise GRPCError(
                Status.ALREADY_EXISTS,
                f"A sandbox named {definition.name!r} is running in this app already.",
            )
        sandbox = Sandbox(
            id=f"sb-{secrets.token_hex(13).upper()}",
            task_id=f"ta-{secrets.token_hex(11).upper()}V",
            app_id=app_id,
            definition=definition,
            tags=tags,
            env={**layer.env, **env},
            limits=Limits.of(definition, layer.workdir),
            created_at=time.time() + next(self._counter) * 1e-4,
        )
        self.all[sandbox.id] = sandbox
        try:
            await self._start(sandbox, layer)
        except BaseException:
            del self.all[sandbox.id]
            await self._clean_up(sandbox)
            raise
        if sandbox.result is not None:  # ended while it was made
            await self._clean_up(sandbox)
        self._spawn(self._watch(sandbox))
        return sandbox

    async def _start(self, sandbox: Sandbox, layer: Layer) -> None:
        definition, limits = sandbox.definition, sandbox.limits
        sandbox.machine = machine = await self._machines.create(
            image=layer.docker_id,
            env=sandbox.env,
            cpus=limits.cpus,
            memory_mib=limits.memory_mib,
            network=limits.network,
        )
        for mount_id in definition.mount_ids:
            await self._images.uploads.put_mount(machine, mount_id)
        # The entry point is not the container's own main program, so that it has streams.
        argv = definition.entrypoint_args or layer.command or ["sleep", "infinity"]
        await sandbox.entry.start(machine, argv, {}, sandbox.cwd)
        self._spawn(sandbox.entry.pump())
        sandbox.tunnels = await Tunnels.open(machine, definition.open_ports, self._context)

    async def _watch(self, sandbox: Sandbox) -> None:
        definition = sandbox.definition
        idle = definition.idle_timeout_secs if definition.HasField("idle_timeout_secs") else None
        watches: list[Awaitable[bool]] = [sandbox.entry.ended.wait(), sandbox.ended.wait()]
        if idle is not None:
            watches.append(self._idle(sandbox, idle))
        tasks = [asyncio.ensure_future(each) for each in watches]
        try:
            await asyncio.wait(
                tasks, timeout=definition.timeout_secs, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
        if sandbox.result is not None:
            return
        code = sandbox.entry.code
        if code is not None:
            good = Result.GENERIC_STATUS_SUCCESS
            self.finish(sandbox, Result.GENERIC_STATUS_FAILURE if code else good, code)
        elif tasks[-1].done() and idle is not None:
            self.finish(sandbox, Result.GENERIC_STATUS_IDLE_TIMEOUT, 137)
        else:
            self.finish(sandbox, Result.GENERIC_STATUS_TIMEOUT)

    async def _idle(self, sandbox: Sandbox, seconds: float) -> bool:
        """Returns once nothing has run or been asked of it for so long."""
        while time.monotonic() - sandbox.active_at < seconds:
            await asyncio.sleep(_IDLE_LOOK_S)
            busy = any(not program.ended.is_set() for program in sandbox.execs.values())
            if busy or (sandbox.tunnels is not None and sandbox.tunnels.in_use):
                sandbox.active_at = time.monotonic()
        return True

    async def rest(self, sandbox: Sandbox, seconds: float) -> None:
        """Have the last use be so long ago; returns after the next look at it."""
        sandbox.active_at -= seconds
        await asyncio.sleep(2 * _IDLE_LOOK_S)

    def finish(
        self, sandbox: Sandbox, status: api.GenericResult.GenericStatus.ValueType, code: int = 0
    ) -> None:
        """End it, and remove its machine in the background."""
        if sandbox.result is None:
            sandbox.result = Result(status=status, exitcode=_EXIT_CODES.get(status, code))
            sandbox.ended.set()
            ending = self._spawn(self._clean_up(sandbox))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def aclose(self) -> None:
        """End all, and wait until their machines are gone."""
        for sandbox in self.running():
            self.finish(sandbox, Result.GENERIC_STATUS_TERMINATED)
        while self._ending:
            await asyncio.wait(self._ending)

    async def _clean_up(self, sandbox: Sandbox) -> None:
        if sandbox.tunnels is not None:
            await sandbox.tunnels.aclose()
        if sandbox.machine is not None:
            await sandbox.machine.remove()


async def alive(work: Awaitable[Any]) -> Any:
    """The result of something done in a machine.

    Raises:
        GRPCError: NOT_FOUND, since the machine has ended.
    """
    try:
        return await work
    except (MachineGone, SandboxError) as error:
        raise GRPCError(Status.NOT_FOUND, "The task has finished") from error
