"""The five verbs, by bubblewrap."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from anyio.to_thread import run_sync

from sandboxkit.concurrency import obtain
from sandboxkit.errors import (
    ExecStartError,
    ProviderUnavailableError,
    SandboxDiedError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.guest import CONNECT
from sandboxkit.providers.base import (
    Capabilities,
    Command,
    Difference,
    Effective,
    SandboxHandle,
    SandboxInfo,
    SandboxProvider,
)
from sandboxkit.spec import SandboxSpec
from sandboxkit_bubblewrap import walls
from sandboxkit_bubblewrap.pipes import Main, Pipes
from sandboxkit_bubblewrap.place import UID, Place

_SPAWN_S = 30.0


class BubblewrapProvider(SandboxProvider):
    """Sandboxes of this machine's own programs, walled in by Linux namespaces.

    Args:
        root: Where sandboxes keep their files; None is a directory below
            `XDG_STATE_HOME`, or `~/.local/state`.
    """

    name: ClassVar[str] = "bubblewrap"
    interface_version: ClassVar[int] = 1
    install_hint: ClassVar[str] = walls.INSTALL_HINT

    def __init__(self, root: Path | None = None) -> None:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self._root = root or Path(state, "sandboxkit-bubblewrap")

    def capabilities(self) -> Capabilities:
        return Capabilities(
            isolation="process", network=frozenset({"none", "open"}), artifacts=True
        )

    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        info = _describe(spec)
        place = Place(self._root / spec.key)
        command = walls.creating(spec, place)
        try:
            await run_sync(place.make, info)
            main = await Main.start(command, {**walls.BASE_ENV, **spec.env})
            try:
                await run_sync(place.started, await main.heading(walls.READY))
            except BaseException:
                await main.aclose()
                raise
        except BaseException as error:
            await run_sync(place.remove)
            if isinstance(error, EOFError):
                message = f"bubblewrap could not make the sandbox: {error}"
                raise ProviderUnavailableError(message, op="create", provider=self.name) from error
            raise
        return BubblewrapHandle(place, info, main)

    async def attach(self, sandbox_id: str) -> SandboxHandle:
        async for info in self.list({}):
            if info.id == sandbox_id and info.state == "running":
                return BubblewrapHandle(Place(self._root / info.id), info)
        raise SandboxNotFoundError(
            f"there is no living sandbox {sandbox_id}", op="attach", provider=self.name
        )

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        for info in await run_sync(Place.all, self._root):
            if labels.items() <= info.labels.items():
                yield info


class BubblewrapHandle(SandboxHandle):
    """One sandbox."""

    def __init__(self, place: Place, info: SandboxInfo, main: Main | None = None) -> None:
        self.info = info
        self._place = place
        self._main = main  # the guest's own streams: the first connection

    async def spawn(self, command: Command) -> Pipes:
        if command.argv == CONNECT and self._main is not None:
            main, self._main = self._main, None
            return main
        if command.user not in (None, str(UID)):
            raise ExecStartError(f"there is no user {command.user}", code="bad_user", op="spawn")
        # Whoever is cancelled meanwhile leaves no program behind.
        return await obtain(self._spawn(command), release=Pipes.aclose, deadline_s=_SPAWN_S)

    async def _spawn(self, command: Command) -> Pipes:
        namespaces = await self._namespaces()
        env = {**await run_sync(self._place.env), **command.env}
        workdir = self.info.effective.workdir or "/"
        with walls.entering(namespaces, command, workdir) as (line, fds):
            started = await Pipes.start(line, env, fds)
        try:
            await started.heading(walls.READY)
        except BaseException as error:
            await started.aclose()
            if not isinstance(error, EOFError):
                raise
            await self._namespaces()
            code = "not_found" if await started.wait() == 127 else "bad_cwd"
            message = f"{command.argv[0]} could not be started: {str(error) or 'no such program'}"
            raise ExecStartError(message, code=code, op="spawn") from error
        return started

    async def _namespaces(self) -> dict[str, int]:
        found = await run_sync(self._place.namespaces)
        if found is None:
            raise SandboxDiedError("the sandbox has ended", op="spawn", sandbox_id=self.info.id)
        return found

    async def destroy(self) -> None:
        await run_sync(self._place.remove)
        main, self._main = self._main, None
        if main is not None:
            await main.aclose()


def _describe(spec: SandboxSpec) -> SandboxInfo:
    """What will be made; refuses what cannot be."""
    differences: tuple[Difference, ...] = ()
    if spec.user not in (None, str(UID), "sandbox"):
        reason = f"bubblewrap has the one user {UID}"
        if spec.strict:
            message = f"user={spec.user!r} cannot be had: {reason}"
            raise UnsupportedError(message, op="create", provider="bubblewrap")
        differences = (Difference("user", spec.user, str(UID), reason),)
    return SandboxInfo(
        id=spec.key,
        provider="bubblewrap",
        state="creating",
        labels=dict(spec.labels),
        created_at=datetime.now(UTC),
        effective=Effective(
            network=spec.network.mode, user=str(UID), workdir=spec.workdir, isolation="process"
        ),
        differences=differences,
    )
