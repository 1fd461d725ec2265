"""One sandbox at E2B: starting programs in it, its time to live, and its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import anyio

from sandboxkit.concurrency import obtain
from sandboxkit.errors import ConnectionLostError, SandboxDiedError, SandboxError, UnsupportedError
from sandboxkit.providers import base
from sandboxkit.providers.base import Command, Exposed, SandboxHandle, State
from sandboxkit.providers.e2b.account import CALL_S, Account
from sandboxkit.providers.e2b.failures import PROVIDER, map_errors
from sandboxkit.providers.e2b.stream import START_S, CommandChannel
from sandboxkit.providers.remembered import recall
from sandboxkit.spec import CREATED_LABEL, EXPIRES_LABEL

if TYPE_CHECKING:
    from e2b import AsyncSandbox, SandboxInfo

MARGIN_S: Final = 10.0  # for a slow network, on top of each lease
PORTS_LABEL: Final = "sandboxkit.ports"
SNAPSHOT_PREFIX: Final = "sandboxkit-snapshot-"
_TAKE_UP_S: Final = 60  # to live after a connect, until the lease is renewed
_PAUSE_S: Final = 120.0  # about 4 s for each GiB of memory
_STATES: Final[Mapping[str, State]] = {"running": "running", "paused": "paused"}


def described(info: SandboxInfo) -> base.SandboxInfo:
    """What E2B and our labels say of a sandbox of ours."""
    labels, effective, differences = recall(info.metadata)
    labels.pop(PORTS_LABEL, None)
    # The template decides on these, and E2B tells: a wish is a difference unless it came true.
    real = {"cpu": float(info.cpu_count), "memory_gib": info.memory_mb / 1024}
    told = {f"resources.{name}": value for name, value in real.items()}
    differences = tuple(
        replace(each, applied=told.get(each.field, each.applied))
        for each in differences
        if told.get(each.field) != each.wanted
    )
    return base.SandboxInfo(
        id=info.sandbox_id,
        provider=PROVIDER,
        state=_STATES.get(info.state.value, "unknown"),
        labels=labels,
        created_at=info.started_at,
        effective=replace(effective, cpu=real["cpu"], memory_gib=real["memory_gib"]),
        differences=differences,
    )


class E2BHandle(SandboxHandle):
    """A sandbox of ours.

    Args:
        account: Whose it is.
        found: What E2B says of it.
        sandbox: The SDK's object, from its creation; `attach` has none until a program
            is started, because to get one resumes a paused sandbox.
    """

    def __init__(
        self, account: Account, found: SandboxInfo, sandbox: AsyncSandbox | None = None
    ) -> None:
        self.info = described(found)
        self._account = account
        self._sandbox = sandbox
        self._ports = frozenset(map(int, found.metadata.get(PORTS_LABEL, "").split()))
        self._ends_at = _ends_at(self.info)

    async def spawn(self, command: Command) -> CommandChannel:
        """Start one program; see `SandboxHandle.spawn`."""
        sandbox = await self._running()
        user = command.user or self.info.effective.user
        try:
            with map_errors("spawn", self.info.id):
                return await obtain(
                    CommandChannel.open(sandbox, command, user),
                    release=lambda channel: channel.aclose(),
                    deadline_s=START_S + MARGIN_S,
                )
        except SandboxDiedError as error:
            raise await self._reason(error) from error

    async def run_as_root(self, line: str) -> None:
        """Run a line of shell to its end; for what belongs to the creation.

        Raises:
            SandboxError: It failed.
        """
        channel = await self.spawn(Command(("/bin/sh", "-c", line), user="root"))
        said = b""
        try:
            with map_errors("create", self.info.id), anyio.fail_after(CALL_S):
                while (output := await channel.receive()) is not None:
                    said += output.data
                code = await channel.wait()
        finally:
            await channel.aclose()
        if code != 0:
            raise SandboxError(
                f"A step of the creation failed ({code}): {said.decode(errors='replace')[:500]}",
                op="create",
                provider=PROVIDER,
                sandbox_id=self.info.id,
            )

    async def _running(self) -> AsyncSandbox:
        """The SDK's object."""
        if self.info.state == "paused":
            raise self._paused()
        if self._sandbox is None:
            self._sandbox = await self._account.call(
                "spawn",
                lambda e2b: e2b.AsyncSandbox.connect(self.info.id, timeout=_TAKE_UP_S),
                sandbox_id=self.info.id,
            )
        return self._sandbox

    async def _reason(self, died: SandboxDiedError) -> SandboxError:
        """Why a sandbox is not running: a paused one is called not found, too."""
        try:
            found = await self._look()
        except SandboxError:
            return died
        return self._paused() if found.state.value == "paused" else died

    def _paused(self) -> ConnectionLostError:
        return ConnectionLostError(
            "The sandbox is paused: resume it first.",
            provider=PROVIDER,
            sandbox_id=self.info.id,
            retryable=True,
        )

    async def _look(self) -> SandboxInfo:
        return await self._account.call(
            "info",
            lambda e2b: e2b.AsyncSandbox.get_info(self.info.id),
            sandbox_id=self.info.id,
        )

    async def destroy(self) -> None:
        """Kill the sandbox; see `SandboxHandle.destroy`."""
        await self._account.call(
            "destroy", lambda e2b: e2b.AsyncSandbox.kill(self.info.id), sandbox_id=self.info.id
        )

    async def renew(self, seconds: float) -> None:
        """Put E2B's deadline off, but not beyond the life-time asked for."""
        left = math.ceil(seconds + MARGIN_S)
        if self._ends_at is not None:
            until_end = (self._ends_at - datetime.now(UTC)).total_seconds()
            left = max(1, min(left, math.ceil(until_end)))
        await self._account.call(
            "renew",
            lambda e2b: e2b.AsyncSandbox.set_timeout(self.info.id, left),
            sandbox_id=self.info.id,
        )

    async def extend(self, seconds: float) -> None:
        """Renewals reach up to the new end from now on; see `SandboxHandle.extend`.

        E2B itself is not asked: what a plan allows in all (1 h, or 24 h) it says at a renewal.
        """
        ends_at = datetime.now(UTC) + timedelta(seconds=seconds + MARGIN_S)
        if self._ends_at is not None:
            self._ends_at = max(self._ends_at, ends_at)

    async def pause(self) -> None:
        """Freeze the sandbox, which then costs nothing and has no deadline."""
        paused = await self._account.call(
            "pause",
            lambda e2b: e2b.AsyncSandbox.pause(self.info.id, strict=True, request_timeout=_PAUSE_S),
            deadline_s=_PAUSE_S,
            sandbox_id=self.info.id,
        )
        # False is "paused already", and "just changing", too.
        if not paused and (await self._look()).state.value != "paused":
            raise SandboxError(
                "The sandbox could not be paused: it is just changing its state. Try again.",
                op="pause",
                provider=PROVIDER,
                sandbox_id=self.info.id,
                retryable=True,
            )
        self.info = replace(self.info, state="paused")

    async def resume(self) -> None:
        """Go on where `pause` stopped."""
        self._sandbox = await self._account.call(
            "resume",
            lambda e2b: e2b.AsyncSandbox.connect(
                self.info.id, timeout=_TAKE_UP_S, request_timeout=_PAUSE_S
            ),
            deadline_s=_PAUSE_S,
            sandbox_id=self.info.id,
        )
        self.info = replace(self.info, state="running")

    async def snapshot(self, name: str) -> str:
        """Keep the files as a template. Memory is not kept: the guest would be in it."""
        # E2B adds to a snapshot of the same name; what was returned before must not change.
        unique = f"{SNAPSHOT_PREFIX}{name}-{uuid4().hex[:8]}".lower()
        made = await self._account.call(
            "snapshot",
            lambda e2b: e2b.AsyncSandbox.create_snapshot(
                self.info.id, unique, mode="filesystem", request_timeout=_PAUSE_S
            ),
            deadline_s=_PAUSE_S,
            sandbox_id=self.info.id,
        )
        named = [each for each in (made.snapshot_id, *made.names) if unique in each]
        return f"template:{named[0] if named else made.snapshot_id}"

    async def expose(self, port: int) -> Exposed:
        """The public URL of a port that the spec has declared; see `SandboxHandle.expose`."""
        if port not in self._ports:
            raise UnsupportedError(
                f"The port {port} was not declared: create the sandbox with ports=({port},).",
                op="expose",
                provider=PROVIDER,
                sandbox_id=self.info.id,
            )
        sandbox = await self._running()
        headers: dict[str, str] = {}
        if sandbox.traffic_access_token:
            headers["e2b-traffic-access-token"] = sandbox.traffic_access_token
        shared = self._account.sandbox_url
        if shared is None:
            return Exposed(f"https://{sandbox.get_host(port)}", headers)
        routing = {"E2b-Sandbox-Id": self.info.id, "E2b-Sandbox-Port": str(port)}
        return Exposed(shared, {**routing, **headers})


def _ends_at(info: base.SandboxInfo) -> datetime | None:
    """When the life-time asked for is over; it begins when the machine does."""
    created, expires = info.labels.get(CREATED_LABEL), info.labels.get(EXPIRES_LABEL)
    if created is None or expires is None or info.created_at is None:
        return None
    lifetime = datetime.fromisoformat(expires) - datetime.fromisoformat(created)
    return info.created_at + lifetime + timedelta(seconds=MARGIN_S)
