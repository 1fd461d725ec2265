"""One sandbox of the emulated E2B: its life-time, its states, its programs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from tests.emulators.e2b.process import Process
from tests.emulators.e2b.template import Build, Template
from tests.emulators.e2b.wire import Exchange
from tests.emulators.machines import Machine, MachineGone, StartFailed

if TYPE_CHECKING:
    from e2b.envd.process.process_pb import ProcessConfig

ENVD_VERSION: Final = "0.6.13"
CREATE_S: Final = 300  # to live, where the client does not say
_KEPT_S: Final = 30.0  # for which an ended program can be asked for its exit code

State = Literal["starting", "running", "pausing", "paused", "resuming", "ending"]
Json = dict[str, Any]


class Transition(Exception):
    """It is between two states, or already in the one that was asked for."""


class Sandbox:
    """One sandbox.

    Args:
        template: What it is made from.
        build: That template's, at the time.
        body: The request that created it.
    """

    def __init__(self, template: Template, build: Build, body: Json) -> None:
        self.id = f"i{secrets.token_hex(10)}"
        self.token, self.traffic_token = secrets.token_hex(32), secrets.token_hex(32)
        self.template, self.build, self.body = template, build, body
        self.state: State = "starting"
        self.started_at = datetime.now(UTC)
        self.end_at = self.started_at
        self.machine: Machine
        self.processes: dict[int, Process] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._exchanges: set[Exchange] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the customer wrote on it."""
        return self.body.get("metadata") or {}

    @property
    def network(self) -> Json:
        """The rules for its network, as they were asked for."""
        return self.body.get("network") or {}

    @property
    def public(self) -> bool:
        """Whether anyone may reach its ports."""
        return self.network.get("allowPublicTraffic") is not False

    @property
    def visible(self) -> bool:
        """Whether the customer can see it."""
        return self.state not in {"starting", "ending"}

    def begin(self, machine: Machine) -> None:
        """It has a machine, and runs."""
        self.machine, self.state = machine, "running"

    # its time

    def live(self, seconds: float, expire: Callable[[Sandbox], None]) -> None:
        """Have `expire` called after this many seconds, and not before."""
        self.rest()
        self.end_at = datetime.now(UTC) + timedelta(seconds=seconds)
        self._timer = asyncio.get_running_loop().call_later(seconds, expire, self)

    @property
    def seconds_left(self) -> float:
        """How long it has to live."""
        return (self.end_at - datetime.now(UTC)).total_seconds()

    def rest(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()

    # its states

    async def pause(self, delay_s: float = 0.0) -> None:
        """Freeze it; its programs live on, their streams do not.

        Raises:
            Transition: It is paused, or becoming so.
        """
        if self.state != "running":
            raise Transition(f"Sandbox '{self.id}' cannot be paused while in '{self.state}' state")
        self.state = "pausing"
        self.rest()
        async with self._changing:
            await asyncio.sleep(delay_s)
            self.cut()
            await self.machine.pause()
            self._become("paused")

    async def resume(self) -> bool:
        """Let it go on; whether it had been paused."""
        if self.state == "pausing":
            async with self._changing:
                pass
        if self.state != "paused":
            return False
        self.state = "resuming"
        async with self._changing:
            await self.machine.unpause()
            self._become("running")
        return True

    def _become(self, state: State) -> None:
        if self.state != "ending":
            self.state = state

    async def freeze(self) -> str:
        """Its files, as an image of the engine; it stands still for a moment.

        Raises:
            Transition: It does not run.
        """
        if self.state != "running":
            raise Transition(
                f"Sandbox '{self.id}' cannot be snapshotted while in '{self.state}' state"
            )
        async with self._changing:
            return await self.machine.commit()

    async def end(self) -> None:
        """End it, with all its programs."""
        self.rest()
        self.state = "ending"
        async with self._changing:
            self.cut()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.machine.remove()

    @contextmanager
    def serving(self, exchange: Exchange) -> Generator[None, None, None]:
        """Break this exchange when the sandbox stops."""
        self._exchanges.add(exchange)
        try:
            yield
        finally:
            self._exchanges.discard(exchange)

    def cut(self) -> None:
        """Break all connections with it."""
        for exchange in list(self._exchanges):
            exchange.drop()

    # its programs

    async def start(
        self, config: ProcessConfig, user: str | None, tag: str | None, *, stdin: bool
    ) -> Process:
        """Start a program.

        Raises:
            ConnectError: No such user or directory.
        """
        name = user or self.build.user
        home = await self.build.home(name, self.machine)
        if home is None:
            raise ConnectError(Code.UNAUTHENTICATED, f"invalid username: '{name}'")
        cwd = config.cwd if config.has_field("cwd") else ""
        cwd = cwd or self.build.workdir or home
        if cwd == "~" or not cwd.startswith("/"):
            cwd = f"{home}/{cwd.removeprefix('~').lstrip('/')}".rstrip("/")
        env = {"HOME": home, "USER": name, "LOGNAME": name, **self.build.env}
        env |= self.body.get("envVars") or {}
        env |= dict(config.envs)
        try:
            program = await self.machine.start(
                [config.cmd, *config.args], env=env, cwd=cwd, user=name
            )
        except StartFailed as error:
            said = f"cwd '{cwd}' does not exist" if "chdir" in str(error) else str(error)
            raise ConnectError(Code.INVALID_ARGUMENT, said) from error
        except MachineGone as error:
            raise ConnectError(Code.UNAVAILABLE, "The sandbox was not found") from error
        process = Process(program, config, tag, stdin=stdin)
        self.processes[process.pid] = process
        return process

    def follow(self, process: Process, deadline_s: float | None) -> None:
        """Read what a program says, until it ends, and a little longer."""
        task = asyncio.create_task(self._follow(process, deadline_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, process: Process, deadline_s: float | None) -> None:
        await process.run(deadline_s)
        await asyncio.sleep(_KEPT_S)
        if self.processes.get(process.pid) is process:
            del self.processes[process.pid]

    # what the API tells of it

    def created(self) -> Json:
        """The answer to its creation."""
        told: Json = {
            "templateID": self.template.id,
            "sandboxID": self.id,
            "clientID": "emulated",
            "envdVersion": ENVD_VERSION,
            "envdAccessToken": self.token,
            "domain": None,
        }
        if self.template.names:
            told["alias"] = self.template.names[0]
        if not self.public:
            told["trafficAccessToken"] = self.traffic_token
        return told

    def listed(self) -> Json:
        """As in a list."""
        told: Json = {
            "templateID": self.template.id,
            "sandboxID": self.id,
            "clientID": "emulated",
            "envdVersion": ENVD_VERSION,
            "startedAt": self.started_at.isoformat(),
            "endAt": self.end_at.isoformat(),
            "cpuCount": self.build.cpus,
            "memoryMB": self.build.memory_mib,
            "diskSizeMB": 10 * 1024,
            "state": "paused" if self.state in {"pausing", "paused"} else "running",
            "metadata": self.metadata,
        }
        if self.template.names:
            told["alias"] = self.template.names[0]
        return told

    def detail(self) -> Json:
        """All that is told of it."""
        on_timeout = "pause" if self.body.get("autoPause") else "kill"
        resume: Json = self.body.get("autoResume") or {}
        told = {**self.listed(), "envdAccessToken": self.token, "domain": None}
        told["lifecycle"] = {"onTimeout": on_timeout, "autoResume": resume.get("enabled", False)}
        told["allowInternetAccess"] = self.body.get("allow_internet_access")
        if self.network:
            told["network"] = self.network
        return told
