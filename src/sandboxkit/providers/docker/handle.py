"""One container: starting programs in it, and its end."""

from __future__ import annotations

from functools import partial
from typing import Final

import anyio

from sandboxkit.errors import ExecStartError, SandboxError
from sandboxkit.guest import CONNECT
from sandboxkit.providers.base import ByteChannel, Command, SandboxHandle, SandboxInfo
from sandboxkit.providers.docker.api import Api, Json
from sandboxkit.providers.docker.containers import (
    all_started,
    death_of,
    inspect_exec,
    look_at_exec,
    remove,
)
from sandboxkit.providers.docker.engine import Engine
from sandboxkit.providers.docker.failures import status_of
from sandboxkit.providers.docker.stream import HijackedChannel

GUEST_USER: Final = "0"

_START_S: Final = 30.0
_ALL_STARTED_S: Final = 10.0  # before a pause
_POLL_S: Final = 0.01


class DockerHandle(SandboxHandle):
    """A container of ours.

    Args:
        engine: Where it lives.
        info: What is known of it.
        main: The standard streams of its main process, the guest: they answer the
            first request for a connector, which saves starting one.
    """

    def __init__(self, engine: Engine, info: SandboxInfo, main: ByteChannel | None = None) -> None:
        self.info = info
        self._engine = engine
        self._main = main

    async def spawn(self, command: Command) -> ByteChannel:
        """Start one program; see `SandboxHandle.spawn`."""
        user = command.user or self.info.effective.user or GUEST_USER
        if command.argv == CONNECT and user == GUEST_USER and self._main is not None:
            main, self._main = self._main, None
            return main
        exec_id = await self._create_exec(command, user)
        connection, first = await self._engine.open(
            "spawn", f"/exec/{exec_id}/start", {"Detach": False, "Tty": False}, self.info.id
        )
        look = partial(look_at_exec, self._engine, self.info.id, exec_id)
        channel = HijackedChannel(connection, first, look, self.info.id)
        try:
            await self._started(exec_id, command, channel)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await channel.aclose()
            raise
        return channel

    async def _create_exec(self, command: Command, user: str) -> str:
        def create(api: Api) -> Json:
            return api.exec_create(
                self.info.id,
                list(command.argv),
                stdin=True,
                user=f"{user}:{user}" if user.isdigit() else user,
                environment=[f"{name}={value}" for name, value in command.env.items()],
                workdir=command.cwd,
            )

        try:
            made = await self._engine.call("spawn", create, sandbox_id=self.info.id)
        except SandboxError as error:
            if status_of(error) in {404, 409} and "is paused" not in error.message:
                raise await death_of(self._engine, self.info) from error
            raise
        return str(made["Id"])

    async def _started(self, exec_id: str, command: Command, channel: HijackedChannel) -> None:
        """Wait until the program runs: Docker takes the connection over before it tries.

        A failed start is told on the program's own stdout, with its exit code 126 or 127.
        """
        with anyio.move_on_after(_START_S):
            while True:
                said = await inspect_exec(self._engine, self.info.id, exec_id)
                if said is None:
                    raise await death_of(self._engine, self.info)
                if said.get("Pid"):
                    return
                if said.get("ExitCode") is not None:
                    break
                await anyio.sleep(_POLL_S)
        message = ""
        with anyio.move_on_after(1):
            while (output := await channel.receive()) is not None:
                message += output.data.decode(errors="replace")
        if "stopped container" in message:
            raise await death_of(self._engine, self.info)
        raise ExecStartError(
            f"{command.argv[0]} could not be started: {message.strip()[:500] or 'no reason given'}",
            code=_start_code(message),
            op="spawn",
            provider="docker",
            sandbox_id=self.info.id,
        )

    async def destroy(self) -> None:
        """Remove the container; see `SandboxHandle.destroy`."""
        await remove(self._engine, self.info.id)
        await self.aclose()

    async def pause(self) -> None:
        """Freeze the container's processes, by the kernel's freezer."""
        await all_started(self._engine, self.info.id, within_s=_ALL_STARTED_S)
        await self._engine.call(
            "pause", lambda api: api.pause(self.info.id), sandbox_id=self.info.id
        )

    async def resume(self) -> None:
        """Let them go on; see `SandboxHandle.resume`."""
        try:
            await self._engine.call(
                "resume", lambda api: api.unpause(self.info.id), sandbox_id=self.info.id
            )
        except SandboxError as error:
            if "is not paused" not in error.message:
                raise

    async def aclose(self) -> None:
        """Let go of the main process's streams, if nobody has taken them up."""
        main, self._main = self._main, None
        if main is not None:
            await main.aclose()


def _start_code(message: str) -> str:
    words = message.lower()
    if "chdir" in words:
        return "bad_cwd"
    if "unable to find user" in words:
        return "bad_user"
    if "permission denied" in words:
        return "not_executable"
    if "no such file" in words or "not found" in words:
        return "not_found"
    return "too_long" if "too long" in words else "failed"
