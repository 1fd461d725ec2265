"""One sandbox at Modal: starting programs in it, its ports, its snapshots, its end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.concurrency import obtain
from sandboxkit.errors import (
    ExecStartError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.providers.base import Command, Exposed, SandboxHandle, SandboxInfo
from sandboxkit.providers.modal.failures import PROVIDER, ask, is_gone, is_refused
from sandboxkit.providers.modal.plan import GUEST_USER
from sandboxkit.providers.modal.stream import ModalChannel
from sandboxkit.providers.modal.user import prefix
from sandboxkit.spec import EXPIRES_LABEL

if TYPE_CHECKING:
    import modal

_START_S: Final = 30.0
_ASK_S: Final = 30.0
_END_S: Final = 45.0
_SNAPSHOT_S: Final = 300
_CLOSE_S: Final = 5.0
_LONGEST: Final = 64 * 1024  # bytes of all arguments together
_ROOT: Final = frozenset({GUEST_USER, "0"})
_TIMED_OUT, _TERMINATED = 124, 137  # the SDK's words for the end of a sandbox


class ModalHandle(SandboxHandle):
    """A sandbox of ours.

    Args:
        sandbox: The SDK's object.
        client: The client that it came by.
        info: What is known of it.
    """

    def __init__(self, sandbox: modal.Sandbox, client: modal.Client, info: SandboxInfo) -> None:
        self.info = info
        self._sandbox = sandbox
        self._client = client
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._gone = False

    async def spawn(self, command: Command) -> ModalChannel:
        """Start one program; see `SandboxHandle.spawn`.

        A user other than root is become by a program of the image.
        """
        user = command.user or self.info.effective.user or GUEST_USER
        argv = command.argv if user in _ROOT else (*await self._become(user), *command.argv)
        if sum(len(word.encode(errors="surrogateescape")) for word in argv) > _LONGEST:
            message = f"Modal takes arguments of at most {_LONGEST} bytes. Use stdin, or a file."
            raise self._not_started(message, "too_long")
        return await self._start(argv, command)

    async def _start(self, argv: tuple[str, ...], command: Command) -> ModalChannel:
        # To its end: a start that is cancelled goes on at Modal, with nobody to end it.
        return await obtain(
            self._exec(argv, command),
            release=lambda channel: channel.aclose(),
            deadline_s=_START_S + _ASK_S,
        )

    async def _exec(self, argv: tuple[str, ...], command: Command) -> ModalChannel:
        starting = self._sandbox.exec.aio(
            *argv, text=False, env=dict(command.env), workdir=command.cwd
        )
        try:
            process = await ask("spawn", starting, deadline_s=_START_S, sandbox_id=self.info.id)
        except SandboxError as error:
            if not (is_gone(error) or is_refused(error)):
                raise
            died = await self._death() if is_gone(error) else None
            said = f"{argv[0]} could not be started: {error.__cause__}"
            raise (died or self._not_started(said, _start_code(said))) from error
        return ModalChannel(self._sandbox, process)

    async def _become(self, user: str) -> tuple[str, ...]:
        if user not in self._prefixes:
            self._prefixes[user] = await prefix(user, self._output_of, self.info.id)
        return self._prefixes[user]

    async def _output_of(self, argv: tuple[str, ...]) -> str:
        channel = await self._start(argv, Command(argv))
        seen = b""
        try:
            with anyio.move_on_after(_START_S):
                while (output := await channel.receive()) is not None:
                    seen += output.data if output.fd == 1 else b""
        finally:
            await channel.aclose()
        return seen.decode(errors="replace")

    async def _death(self) -> SandboxDiedError | None:
        """Why the sandbox has ended; None if it has not."""
        try:
            code = await ask("look", self._sandbox.poll.aio(), deadline_s=_ASK_S)
        except SandboxError as error:
            if not is_gone(error):
                return None
            code = _TERMINATED
        if code is None:
            return None
        expires = self.info.labels.get(EXPIRES_LABEL)
        late = bool(expires) and datetime.fromisoformat(str(expires)) <= datetime.now(UTC)
        if code == _TIMED_OUT or late:
            word, what = "expired", "has reached the end of its life-time"
        elif code == _TERMINATED:
            word, what = "killed", "was terminated from outside, or by Modal"
        else:
            word, what = "died", "has ended"
        return SandboxDiedError(
            f"The sandbox {what}. Create another one.",
            code=word,
            op="spawn",
            provider=PROVIDER,
            sandbox_id=self.info.id,
            retryable=False,
        )

    def _not_started(self, message: str, code: str) -> ExecStartError:
        return ExecStartError(
            message, code=code, op="spawn", provider=PROVIDER, sandbox_id=self.info.id
        )

    async def expose(self, port: int) -> Exposed:
        """The public address of a port; whoever knows it is let in."""
        asking = self._sandbox.tunnels.aio()
        tunnels = await ask("expose", asking, deadline_s=_ASK_S, sandbox_id=self.info.id)
        if port not in tunnels:
            declared = ", ".join(map(str, sorted(tunnels))) or "none"
            raise UnsupportedError(
                f"The port {port} has no public address: Modal gives one only to ports that "
                f"were declared by `ports=` at creation ({declared}).",
                op="expose",
                provider=PROVIDER,
                sandbox_id=self.info.id,
            )
        return Exposed(tunnels[port].url)

    async def snapshot(self, name: str) -> str:  # noqa: ARG002 - Modal's have ids
        """Keep the files as an image of Modal's, until `remove_snapshot`; returns `im-...`."""
        making = self._sandbox.snapshot_filesystem.aio(_SNAPSHOT_S, ttl=None)
        try:
            image = await ask(
                "snapshot", making, deadline_s=_SNAPSHOT_S + _ASK_S, sandbox_id=self.info.id
            )
        except SandboxError as error:
            if is_gone(error) and (died := await self._death()):
                raise died from error
            raise
        return image.object_id

    async def destroy(self) -> None:
        """Terminate it and wait until it has ended; see `SandboxHandle.destroy`."""
        if not self._gone:
            try:
                ending = _terminate(self._sandbox, self._client)
                await ask("destroy", ending, deadline_s=_END_S, sandbox_id=self.info.id)
            except SandboxNotFoundError:
                pass  # Modal says that it has ended, or does not know it any more
            self._gone = True
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection to the sandbox's machine."""
        with anyio.move_on_after(_CLOSE_S):
            await self._sandbox.detach.aio()  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]


async def _terminate(sandbox: modal.Sandbox, client: modal.Client) -> None:
    from modal import Sandbox
    from modal.exception import ClientClosed, SandboxTimeoutError

    try:
        await sandbox.terminate.aio(wait=True)
    except SandboxTimeoutError:
        return  # its life-time had ended it
    except ClientClosed:  # the object was let go of; the sandbox lives
        again = await Sandbox.from_id.aio(sandbox.object_id, client=client)
        await again.terminate.aio(wait=True)


def _start_code(said: str) -> str:
    words = said.lower()
    if "chdir" in words or "workdir" in words or "cwd" in words:
        return "bad_cwd"
    if "permission denied" in words:
        return "not_executable"
    return "not_found" if "not found" in words or "no such file" in words else "failed"
