"""One sandbox at Daytona."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sandboxkit.errors import (
    ExecStartError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.guest import CONNECT
from sandboxkit.providers.base import ByteChannel, Command, Exposed, SandboxHandle, SandboxInfo
from sandboxkit.providers.daytona.command import script
from sandboxkit.providers.daytona.failures import PROVIDER
from sandboxkit.providers.daytona.plan import (
    ARTIFACTS_LABEL,
    OURS,
    SNAPSHOT,
    ends_at,
    ttl_minutes,
)
from sandboxkit.providers.daytona.stream import GUEST_LOG, SessionChannel
from sandboxkit.providers.daytona.v0 import Machine


class DaytonaHandle(SandboxHandle):
    """A sandbox of ours."""

    def __init__(self, machine: Machine, info: SandboxInfo) -> None:
        self.info = info
        self._machine = machine
        self._ends_at = ends_at(info.labels)

    async def spawn(self, command: Command) -> ByteChannel:
        """Start one program, in a session of its own; see `SandboxHandle.spawn`."""
        user = self.info.effective.user
        if command.user not in {None, user}:
            raise ExecStartError(
                f"everything in a Daytona sandbox runs as its one user, {user}; "
                f"{command.user!r} cannot be had",
                code="bad_user",
                op="spawn",
                provider=PROVIDER,
                sandbox_id=self.info.id,
            )
        # The guest's connection ends by its close: it needs no filter for the end of input.
        guest = command.argv == CONNECT
        text = script(command, ends=not guest)
        try:
            program = await self._machine.start(text.text)
        except SandboxError as error:
            raise await self._why(error) from error
        channel = SessionChannel(program, text, GUEST_LOG if guest else None)
        if text.first:
            try:
                await channel.write(text.first)
            except BaseException:
                await channel.aclose()
                raise
        return channel

    async def destroy(self) -> None:
        """End the sandbox and see it gone; see `SandboxHandle.destroy`."""
        await self._machine.remove()

    async def renew(self, seconds: float) -> None:
        """Have it end in so many seconds, rounded up to a whole minute."""
        try:
            await self._machine.renew(ttl_minutes(seconds, self._ends_at))
        except SandboxError as error:
            raise await self._why(error) from error

    async def extend(self, seconds: float) -> None:
        """Renewals reach up to the new end from now on; see `SandboxHandle.extend`."""
        if self._ends_at is not None:
            self._ends_at = max(self._ends_at, datetime.now(UTC) + timedelta(seconds=seconds))

    async def snapshot(self, name: str) -> str:
        """Keep its files; see `SandboxHandle.snapshot`."""
        if not name.startswith(OURS):
            name = f"{OURS}{name}"
        mark = self.info.labels.get(ARTIFACTS_LABEL)
        if mark:  # so that it can be told later that these files are in it
            name = f"{name}.{mark}"
        try:
            await self._machine.take_snapshot(name)
        except SandboxError as error:
            raise await self._why(error) from error
        return f"{SNAPSHOT}{name}"

    async def expose(self, port: int) -> Exposed:
        """The public address of a port, and the token that each request needs."""
        try:
            return await self._machine.expose(port)
        except SandboxError as error:
            raise await self._why(error) from error

    async def _why(self, error: SandboxError) -> SandboxError:
        """The error that fits, once the sandbox has been looked at.

        Many of the service's errors do not say whether it is the sandbox that is gone.
        """
        if isinstance(error, UnsupportedError):
            return error
        try:
            await self._machine.look()
        except SandboxNotFoundError:
            how = "it is gone"
        except SandboxError:
            return error
        else:
            if self._machine.state in {"running", "creating"} and not self._machine.gone:
                return error
            how = "it has been stopped" if not self._machine.gone else "it is being destroyed"
        return SandboxDiedError(
            f"The sandbox has ended: {how}.",
            op=error.op,
            provider=PROVIDER,
            sandbox_id=self.info.id,
        )
