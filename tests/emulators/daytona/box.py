"""One sandbox: its states, clocks and container."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.emulators.daytona.account import ORGANIZATION, Account, iso
from tests.emulators.daytona.gate import Json
from tests.emulators.daytona.rules import Order
from tests.emulators.daytona.session import Session
from tests.emulators.machines import Machine, MachineGone, StartFailed

if TYPE_CHECKING:
    from aiohttp import web

GOING = frozenset({"destroying", "destroyed"})
_STOP_S = 1  # what processes have from the request to end until they are killed
# The os user `daytona` takes the place of whoever has its number in the image.
_SETUP = """
home=/home/daytona
if ! grep -q '^daytona:[^:]*:1000:' /etc/passwd; then
  for file in /etc/passwd /etc/group; do
    grep -v -e '^daytona:' -e '^[^:]*:[^:]*:1000:' $file > $file.new || true
    cat $file.new > $file; rm $file.new
  done
  echo "daytona:x:1000:1000::$home:/bin/sh" >> /etc/passwd
  echo 'daytona:x:1000:' >> /etc/group
fi
mkdir -p $home
chown 1000:1000 $home
"""


@dataclass(slots=True)
class Clocks:
    """Minutes until the service acts by itself, and since when they count."""

    auto_stop: int
    auto_pause: int
    auto_delete: int
    auto_archive: int
    ttl: int
    ttl_since: float
    active_at: float
    stopped_at: float | None = None


class Box:
    """One sandbox of the account.

    Attributes:
        state: As the service calls it.
        image: The engine's image that it is made of, once that is known.
    """

    def __init__(self, account: Account, order: Order) -> None:
        now = time.time()
        self.account = account
        self.order = order
        self.id = str(uuid.uuid4())
        self.name = order.name or self.id
        self.labels = order.labels
        self.env = dict(order.env)
        self.public = order.public
        self.blocked = order.block_all
        self.allowed = order.allow_list
        self.domains = order.domains
        self.state = "pending_build" if order.build is not None else "creating"
        self.desired = "started"
        self.error: str | None = None
        self.created = now
        self.token = secrets.token_urlsafe(24)
        self.sessions: dict[str, Session] = {}
        self.streams: set[asyncio.Transport] = set()
        self.clocks = Clocks(
            auto_stop=order.auto_stop,
            auto_pause=order.auto_pause,
            auto_delete=order.auto_delete,
            auto_archive=order.auto_archive,
            ttl=order.ttl,
            ttl_since=now,
            active_at=now,
        )
        self._machine: Machine | None = None
        self._moving = asyncio.Lock()

    @property
    def machine(self) -> Machine:
        """Its container, while it is started."""
        if self._machine is None:
            raise MachineGone(self.id)
        return self._machine

    @property
    def home(self) -> str:
        """The directory where its programs start."""
        return "/root" if self.order.user == "root" else f"/home/{self.order.user}"

    @property
    def virtual(self) -> bool:
        """Whether it is a VM, that can be paused."""
        return self.order.sandbox_class != "container"

    def environment(self) -> dict[str, str]:
        """What all its programs have."""
        return {"HOME": self.home, **self.env}

    def dto(self) -> Json:
        """As `GET /sandbox/{id}` shows it."""
        clocks = self.clocks
        found: Json = {
            "id": self.id,
            "organizationId": ORGANIZATION,
            "name": self.name,
            "snapshot": self.order.snapshot,
            "user": self.order.user,
            "env": self.env,
            "labels": self.labels,
            "public": self.public,
            "networkBlockAll": self.blocked,
            "kvm": False,
            "target": self.order.target,
            "cpu": self.order.cpu,
            "gpu": 0,
            "memory": self.order.memory,
            "disk": self.order.disk,
            "state": self.state,
            "desiredState": self.desired,
            "autoStopInterval": clocks.auto_stop,
            "autoPauseInterval": clocks.auto_pause,
            "autoArchiveInterval": clocks.auto_archive,
            "autoDeleteInterval": clocks.auto_delete,
            "createdAt": iso(self.created),
            "updatedAt": iso(time.time()),
            "lastActivityAt": iso(clocks.active_at),
            "sandboxClass": self.order.sandbox_class,
            "daemonVersion": "v0.0.0-emulated",
            "toolboxProxyUrl": f"{self.account.url}/toolbox",
        }
        optional = {
            "networkAllowList": self.allowed,
            "domainAllowList": self.domains,
            "errorReason": self.error,
            "autoDestroyAt": iso(self.ends_at()) if clocks.ttl else None,
        }
        return found | {name: value for name, value in optional.items() if value is not None}

    def item(self) -> Json:
        """As a listing shows it: without what only `GET` of one shows."""
        hidden = {"env", "kvm", "networkAllowList", "domainAllowList"}
        return {name: value for name, value in self.dto().items() if name not in hidden}

    def ends_at(self) -> float:
        """When its time to live is over, if it has one."""
        return self.clocks.ttl_since + self.clocks.ttl * self.account.settings.minute_s

    def touch(self) -> None:
        """It was used just now."""
        self.clocks.active_at = time.time()

    async def move(self, state: str) -> None:
        """Enter a state, and tell of it."""
        old, self.state = self.state, state
        if old != state:
            await self.account.events.state(self.dto(), old, state)

    async def boot(self) -> None:
        """From the order to a running container."""
        try:
            image = await self._image()
            async with self._moving:
                if self.state not in GOING:
                    self._machine = await self._create(image)
                    await self._check_user()
        except BuildFailed as error:
            self.error = str(error)
            await self._go_on("build_failed")
        except Exception as error:  # noqa: BLE001 - whatever it is, the sandbox shows it
            self.error = f"{type(error).__name__}: {error}"
            await self._go_on("error")
        else:
            self.touch()
            await self._go_on("started")

    async def _go_on(self, state: str) -> None:
        if self.state not in GOING:
            await self.move(state)

    async def _create(self, image: str | None) -> Machine:
        machines = self.account.machines
        cores = int((await machines.call("info"))["NCPU"])  # more than that Docker refuses
        return await machines.create(
            image=image,
            env=self.env,
            cpus=min(self.order.cpu, cores),
            memory_mib=self.order.memory * 1024,
            network=self._open,
            setup=_SETUP,
        )

    async def _image(self) -> str | None:
        order, snapshots = self.order, self.account.snapshots
        if order.build is None:
            assert order.snapshot is not None
            return snapshots.image_of(order.snapshot)
        await self._go_on("building_snapshot")
        built = await snapshots.builds.image(order.build)
        if built.error is not None:
            raise BuildFailed(built.error)
        await self._go_on("creating")
        return built.image

    async def _check_user(self) -> None:
        code, _, _ = await self.machine.run(["id", "-u", self.order.user])
        if code:
            raise StartFailed(f"unable to find user {self.order.user}")

    @property
    def _open(self) -> bool:
        # An allow-list is enforced more strictly than asked: nothing is let through.
        return not (self.blocked or self.allowed or self.domains)

    async def set_network(self, *, blocked: bool, allowed: str | None, domains: str | None) -> None:
        """Change its network while it runs."""
        before = self._open
        self.blocked, self.allowed, self.domains = blocked, allowed, domains
        if self._open == before or self._machine is None:
            return
        call, container = self.account.machines.call, self._machine.id
        if self._open:
            await call("disconnect_container_from_network", container, "none")
            await call("connect_container_to_network", container, "bridge")
        else:
            await call("disconnect_container_from_network", container, "bridge", force=True)

    async def stop(self) -> None:
        """End its processes; its disk stays."""
        async with self._moving:
            if self.state != "stopping":
                return
            await self._let_go()
            await self.account.machines.call("stop", self.machine.id, timeout=_STOP_S)
            self.clocks.stopped_at = time.time()
            await self.move("stopped")

    async def start(self) -> None:
        """From stopped or paused to started."""
        async with self._moving:
            if self.state == "starting":
                await self.account.machines.call("start", self.machine.id)
            elif self.state == "resuming":
                await self.machine.unpause()
            else:
                return
            self.clocks.stopped_at = None
            self.touch()
            await self.move("started")

    async def pause(self) -> None:
        """Freeze it."""
        async with self._moving:
            if self.state == "pausing":
                await self.machine.pause()
                await self.move("paused")

    async def keep(self, before: str) -> str:
        """Its disk as an image; `before` is the state to go back to."""
        async with self._moving:
            image = await self.machine.commit()
            if self.state == "snapshotting":
                await self.move(before)
            return image

    async def remove(self) -> None:
        """End it and all that is left of it."""
        await self.move("destroying")  # where the service itself ends, nobody has said so yet
        async with self._moving:
            await self._let_go()
            if self._machine is not None:
                await self._machine.remove()
            await self.move("destroyed")
            self.account.boxes.pop(self.id, None)

    async def _let_go(self) -> None:
        for transport in list(self.streams):
            transport.abort()
        while self.sessions:  # one by one: whoever is cancelled here leaves the rest to the next
            _name, session = self.sessions.popitem()
            await session.aclose()

    def hold(self, request: web.Request) -> Held:
        """A connection that ends with the sandbox, and counts as use until it does."""
        return Held(self, request)


class Held:
    """See `Box.hold`."""

    def __init__(self, box: Box, request: web.Request) -> None:
        self._box = box
        self._transport = request.transport

    def __enter__(self) -> None:
        if self._transport is not None:
            self._box.streams.add(self._transport)

    def __exit__(self, *_exc: object) -> None:
        if self._transport is not None:
            self._box.streams.discard(self._transport)
        self._box.touch()


class BuildFailed(Exception):
    """The image could not be built; the message is the builder's."""
