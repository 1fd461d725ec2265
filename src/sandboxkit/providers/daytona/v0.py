"""Version 0 of Daytona's API: an account and its sandboxes.

With `program.py` it is all that sandboxkit asks of the SDK, and the seam for version 2
(`daytona.v2`, package 2.x): three classes of this shape, `Service`, `Machine` and
`Program`, over `process.start`, whose programs have an input that ends and a log that can
be taken up at an offset. What is above them knows neither version.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from sandboxkit.errors import SandboxError, SandboxNotFoundError
from sandboxkit.providers.base import Exposed, State
from sandboxkit.providers.daytona.client import CALL_S, Client
from sandboxkit.providers.daytona.failures import PROVIDER, map_errors
from sandboxkit.providers.daytona.program import Program

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox, CreateSnapshotParams

T = TypeVar("T")

CREATE_S: Final = 90.0
DESTROY_S: Final = 50.0
_SNAPSHOT_S: Final = 600.0
_BUILD_S: Final = 1800.0
_SDK_S: Final = 3600  # the SDK's own time-outs: never the first to strike
_POLL_S: Final = 0.5
_PENDING: Final = frozenset({"pending", "building", "pulling", "snapshotting"})
_GONE: Final = frozenset({"destroying", "destroyed"})
_STATES: Final[Mapping[str, State]] = {
    "started": "running",
    "snapshotting": "running",
    "resizing": "running",
    "creating": "creating",
    "starting": "creating",
    "restoring": "creating",
    "resuming": "creating",
    "pending_build": "creating",
    "building_snapshot": "creating",
    "pulling_snapshot": "creating",
    "paused": "paused",
    "pausing": "paused",
    "stopped": "stopped",
    "stopping": "stopped",
    "archived": "stopped",
    "archiving": "stopped",
}


class Size(NamedTuple):
    """What a sandbox or a snapshot has: whole cores, whole GiB."""

    cpu: int
    memory_gib: int
    disk_gib: int


@dataclass(frozen=True, slots=True)
class Order:
    """A sandbox to be made.

    Attributes:
        name: Unique in the account.
        snapshot: What it starts from; None is the account's default snapshot.
        user: Who everything runs as; None is the snapshot's own.
        labels: All of them.
        blocked: Whether its network is blocked altogether.
        ttl_minutes: When the service ends it, unless told otherwise.
    """

    name: str
    snapshot: str | None
    user: str | None
    labels: Mapping[str, str]
    blocked: bool
    ttl_minutes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What sandboxes start from."""

    name: str
    state: str
    size: Size
    reason: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a snapshot is built.

    Attributes:
        image: What on.
        size: What its sandboxes get.
        commands: Lines of shell that root runs.
        files: Files of this machine, by their place in it; root's, mode 0755.
        user: Who everything then runs as; None is as the image has it.
    """

    image: str
    size: Size
    commands: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    user: str | None = None


class Service:
    """The account."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def create(self, order: Order) -> Machine:
        """Create a sandbox and wait until it runs."""

        def create(sdk: AsyncDaytona) -> Awaitable[AsyncSandbox]:
            from daytona import CreateSandboxFromSnapshotParams  # with the SDK, off the loop

            params = CreateSandboxFromSnapshotParams(
                name=order.name,
                snapshot=order.snapshot,
                os_user=order.user,
                labels=dict(order.labels),  # the SDK adds one of its own
                network_block_all=order.blocked or None,
                auto_stop_interval=0,
                ephemeral=True,
                ttl_minutes=order.ttl_minutes,
            )
            return sdk.create(params, timeout=_SDK_S)

        made = await self.client.call("create", create, deadline_s=CREATE_S)
        return Machine(self.client, made)

    async def get(self, name: str) -> Machine:
        """The sandbox of this id or name.

        Raises:
            SandboxNotFoundError: There is none, or it is just being destroyed.
        """
        found = await self.client.call("get", lambda sdk: sdk.get(name), sandbox_id=name)
        machine = Machine(self.client, found)
        if machine.gone:
            raise SandboxNotFoundError(
                f"This sandbox has ended: {name}.", op="get", provider=PROVIDER, sandbox_id=name
            )
        return machine

    async def find(self, labels: Mapping[str, str]) -> AsyncIterator[Machine]:
        """All sandboxes with these labels; a new one may be missing for a moment."""

        async def whole(sdk: AsyncDaytona) -> list[AsyncSandbox]:
            from daytona import ListSandboxesQuery

            query = ListSandboxesQuery(labels=dict(labels) or None)
            return [each async for each in sdk.list(query)]

        for each in await self.client.call("list", whole):
            machine = Machine(self.client, each)
            if not machine.gone:
                yield machine

    async def remove(self, name: str) -> None:
        """Destroy the sandbox of this id or name, and see it gone; gone already is success."""
        with contextlib.suppress(SandboxNotFoundError):
            await (await self.get(name)).remove()

    async def snapshot(self, name: str) -> Snapshot | None:
        """What there is of a snapshot, if there is anything."""
        try:
            found = await self.client.call("snapshot", lambda sdk: sdk.snapshot.get(name))
        except SandboxNotFoundError:
            return None
        size = Size(int(found.cpu), int(found.mem), int(found.disk))
        return Snapshot(found.name, found.state.value, size, found.error_reason or "")

    async def build(self, name: str, recipe: Recipe, said: Callable[[str], None]) -> None:
        """Make a snapshot; returns when it is ready. `said` gets each line of the log."""

        def define() -> CreateSnapshotParams:  # in a thread: it looks at the files
            from daytona import CreateSnapshotParams, Image, Resources

            built = Image.base(recipe.image).run_commands(*recipe.commands)
            for target, source in recipe.files.items():
                built = built.add_local_file(source, target)
                if source.stat().st_mode & 0o555 != 0o555:
                    built = built.run_commands(f"chmod 0755 {shlex.quote(target)}")
            if recipe.user is not None:
                built = built.dockerfile_commands([f"USER {recipe.user}"])
            size = recipe.size
            return CreateSnapshotParams(
                name=name,
                image=built if recipe.files or recipe.commands else recipe.image,
                resources=Resources(cpu=size.cpu, memory=size.memory_gib, disk=size.disk_gib),
                entrypoint=["sleep", "infinity"],
            )

        await self.client.ready()  # has imported the SDK, off the loop
        with map_errors("build", self.client.access.url):
            params = await anyio.to_thread.run_sync(define)
        await self.client.call(
            "build",
            lambda sdk: sdk.snapshot.create(params, on_logs=said, timeout=_SDK_S),
            deadline_s=_BUILD_S,
        )

    async def activate(self, name: str) -> None:
        """Wake a snapshot that the service has put aside for want of use."""
        await self.client.call("activate", lambda sdk: sdk.snapshot.activate(name))

    async def remove_snapshot(self, name: str) -> None:
        """Remove a snapshot; gone already is success."""
        with contextlib.suppress(SandboxNotFoundError):
            await self.client.call("remove_snapshot", lambda sdk: sdk.snapshot.delete(name))


class Machine:
    """One sandbox."""

    def __init__(self, client: Client, sandbox: AsyncSandbox) -> None:
        self.client = client
        self.id = sandbox.id
        self._sandbox = sandbox

    @property
    def name(self) -> str:
        """Its name, which is the key of its spec."""
        return self._sandbox.name

    @property
    def labels(self) -> dict[str, str]:
        """All of them."""
        return dict(self._sandbox.labels)

    @property
    def gone(self) -> bool:
        """Whether it has ended, or is just ending."""
        return self._word in _GONE

    @property
    def state(self) -> State:
        """Its state when it was last looked at."""
        return _STATES.get(self._word, "unknown")

    @property
    def created_at(self) -> str | None:
        """When, as the service writes it."""
        return self._sandbox.created_at

    @property
    def size(self) -> Size:
        """What it really has."""
        return Size(self._sandbox.cpu, self._sandbox.memory, self._sandbox.disk)

    @property
    def snapshot(self) -> str | None:
        """What it was started from."""
        return self._sandbox.snapshot

    @property
    def blocked(self) -> bool | None:
        """Whether it has no network; None in a listing."""
        return self._sandbox.network_block_all

    @property
    def _word(self) -> str:
        state = self._sandbox.state
        return state.value if state is not None else "unknown"

    async def person(self) -> tuple[str, str]:
        """The name of the user that everything runs as, and its home directory."""
        script = "id -un 2>/dev/null || id -u; cd; pwd"
        said = await self._call("get", lambda it: it.process.exec(script, timeout=20))
        user, _, home = said.result.strip().partition("\n")
        if said.exit_code or not home.startswith("/"):
            raise SandboxError(
                f"The sandbox does not say who its user is: {said.result[:200]!r}",
                provider=PROVIDER,
                sandbox_id=self.id,
            )
        return user, home

    async def start(self, text: str) -> Program:
        """Run a line or a script in a shell of its own."""
        from daytona import SessionExecuteRequest

        session = f"sandboxkit-{secrets.token_hex(8)}"
        request = SessionExecuteRequest(command=text, run_async=True, suppress_input_echo=True)
        try:
            await self._call("spawn", lambda it: it.process.create_session(session))
            started = await self._call(
                "spawn", lambda it: it.process.execute_session_command(session, request)
            )
        except BaseException:
            Program(self.client, self._sandbox, session, "").abandon()
            raise
        return Program(self.client, self._sandbox, session, started.cmd_id)

    async def renew(self, minutes: int) -> None:
        """Have the service end it that many minutes from now."""
        await self._call("renew", lambda it: it.set_ttl(minutes))

    async def expose(self, port: int) -> Exposed:
        """The public address of a port, and the token that lets a request in."""
        link = await self._call("expose", lambda it: it.get_preview_link(port))
        return Exposed(link.url, {"X-Daytona-Preview-Token": link.token})

    async def take_snapshot(self, name: str) -> None:
        """Keep its files as a snapshot, which is ready when this returns."""

        async def take(sdk: AsyncDaytona) -> str:
            await self._sandbox.create_snapshot(name, timeout=_SDK_S)
            while (state := (await sdk.snapshot.get(name)).state.value) in _PENDING:  # noqa: ASYNC110
                await anyio.sleep(_POLL_S)
            return state

        state = await self.client.call("snapshot", take, deadline_s=_SNAPSHOT_S, sandbox_id=self.id)
        if state != "active":
            await Service(self.client).remove_snapshot(name)
            raise SandboxError(
                f"Daytona could not take the snapshot {name}: it is {state}",
                op="snapshot",
                provider=PROVIDER,
                sandbox_id=self.id,
            )

    async def remove(self) -> None:
        """Destroy it, and see it gone; gone already is success."""
        try:
            await self._call("destroy", lambda it: it.delete(_SDK_S, wait=True), DESTROY_S)
        except SandboxNotFoundError:
            return
        except SandboxError:
            url = self.client.access.url
            with map_errors("destroy", url, self.id), anyio.fail_after(DESTROY_S):
                if not await self._ends_by_itself():
                    raise

    async def _ends_by_itself(self) -> bool:
        """Whether somebody else is destroying it; if so, returns when that is done."""
        while True:
            try:
                await self.look()
            except SandboxNotFoundError:
                return True
            if not self.gone or self._word == "destroyed":
                return self.gone
            await anyio.sleep(_POLL_S)

    async def look(self) -> None:
        """Ask for its state anew.

        Raises:
            SandboxNotFoundError: There is none any more.
        """
        await self._call("get", lambda it: it.refresh_data())

    async def _call(
        self,
        op: str,
        work: Callable[[AsyncSandbox], Awaitable[T]],
        deadline_s: float = CALL_S,
    ) -> T:
        return await self.client.call(
            op, lambda _sdk: work(self._sandbox), deadline_s=deadline_s, sandbox_id=self.id
        )
