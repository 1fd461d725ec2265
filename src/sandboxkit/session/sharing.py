"""Several agents in one sandbox, each as a Unix user of its own."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final, Self

import anyio

from sandboxkit.channel.files import Files
from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import (
    ConnectionLostError,
    ExecStartError,
    InvalidSpecError,
    OperationTimeoutError,
    ProtocolError,
    SandboxError,
    UnsupportedError,
)
from sandboxkit.health import DEADLINE_S, Health
from sandboxkit.sandbox import Sandbox

if TYPE_CHECKING:
    from sandboxkit.channel.remote import RemoteChannel
    from sandboxkit.providers.base import SandboxInfo

__all__ = ["SharedSandbox"]

_KEY: Final = "sandboxkit."  # guest.users.KEY: what makes a name that of a user of ours
_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_SHARE: Final = 4  # a user may have one in so many of the sandbox's processes
_FEWEST: Final = 64
_NO_LIMIT: Final = 1024
_JOIN_S: Final = 30.0
_END_S: Final = 60.0


class SharedSandbox(Sandbox):
    """A sandbox as one of those sees it who share it: all is done as a user of its own.

    It is what `session.sandbox` is in a session that was given `sandbox=`. Commands, files and
    relative paths are those of the user, whose home and work directory no other user of the
    sandbox can enter. Its end is the end of the user: all that runs as the user is killed, and
    its files are removed; the machine goes on. `pause`, `resume`, `snapshot` and `network` are
    the machine's, and so for all who share it.

    Attributes:
        user: The user's name.
        shared_folders: The folders that it shares with those who have named them, too.
    """

    is_shared: ClassVar[bool] = True

    def __init__(self, whole: Sandbox, user: str, shared_folders: tuple[str, ...]) -> None:
        super().__init__(replace(whole._parts, created=False, owns_provider=False))  # noqa: SLF001 - its own kind
        self._whole = whole
        self.user = user
        self.shared_folders = shared_folders
        self.files = Files(self._client, user=_KEY + user)
        self._uid: int | None = None
        self._home = self._workdir = ""
        self._membership: RemoteChannel | None = None
        self._renewal: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<SharedSandbox {self.user} in {self._whole!r}>"

    @classmethod
    def check(cls, whole: Sandbox, user: str | None, shared_folders: Sequence[str]) -> None:
        """Refuse what cannot be, before anything runs.

        Raises:
            InvalidSpecError: It is no name, or no folder; or the sandbox is only a user's
                part of one.
            UnsupportedError: The sandbox has no guest that is root.
        """
        if isinstance(whole, SharedSandbox):
            raise InvalidSpecError(
                f"sandbox: this one is what {whole.user!r} sees of a shared one; give the "
                "sandbox itself"
            )
        if user is not None and not _NAME.fullmatch(user):
            raise InvalidSpecError(
                f"user: {user!r} is no name for a user: 1 to 31 of a-z, 0-9, _ and -, the first "
                "no digit"
            )
        if isinstance(shared_folders, str):
            raise InvalidSpecError("shared_folders is a list of paths, not one path")
        for path in shared_folders:
            plain = path.startswith("/") and posixpath.normpath(path) == path
            if not plain or path in {"/", "//"} or "\0" in path:
                raise InvalidSpecError(
                    f"shared_folders: {path!r} is not an absolute path in the sandbox, without "
                    "'..' and without '/' at its end"
                )
        can = whole._provider.capabilities()  # noqa: SLF001 - its own kind
        if can.guest_user is None or not whole._client().welcome.get("root"):  # noqa: SLF001
            raise UnsupportedError(
                f"sandbox: agents that share one need users of their own, and on "
                f"{whole.info.provider!r} the guest is not root here and can make none. Give each "
                "agent a sandbox of its own, or use Docker, E2B or Modal.",
                op="share",
                provider=whole.info.provider,
            )

    @classmethod
    async def join(
        cls, whole: Sandbox, *, user: str | None = None, shared_folders: Sequence[str] = ()
    ) -> Self:
        """Make a user in a sandbox; what fails or is cancelled leaves none.

        Args:
            whole: The sandbox.
            user: The name; None makes one up.
            shared_folders: Folders, by absolute path, that those can read and write who name
                them, and nobody else. They are made where there are none, and stay.

        Raises:
            InvalidSpecError: The name is in use, in the sandbox or its image; or a folder
                could be replaced by others; or see `check`.
            UnsupportedError: See `check`; or the kernel does not keep users apart (gVisor, in some
                releases), which is looked at each time.
            SandboxError: The sandbox failed.
        """
        cls.check(whole, user, shared_folders)
        name = user or f"agent-{secrets.token_hex(4)}"
        made = cls(whole, name, tuple(dict.fromkeys(shared_folders)))
        try:
            with anyio.fail_after(_JOIN_S):
                await made._enter()
        except BaseException as error:
            await made.aclose()
            if isinstance(error, TimeoutError) and not isinstance(error, SandboxError):
                raise OperationTimeoutError(
                    f"the guest has not made the user {name} within {_JOIN_S:g} s", op="share"
                ) from error
            raise
        return made

    async def _enter(self) -> None:
        membership = self._ask()
        try:
            reply = await membership.started()
        except ExecStartError as error:
            if error.code == "in_use":
                raise InvalidSpecError(f"user: {error.message}") from error
            if error.code == "unsafe_folder":
                raise InvalidSpecError(f"shared_folders: {error.message}") from error
            if error.code == "not_apart":
                raise UnsupportedError(
                    f"sandbox: {error.message}, so that agents in it could steal from each other. "
                    "Give each a sandbox of its own.",
                    op="share",
                    provider=self._whole.info.provider,
                ) from error
            raise
        uid, home, workdir = (reply.get(name) for name in ("uid", "home", "workdir"))
        if type(uid) is not int or not isinstance(home, str) or not isinstance(workdir, str):
            raise ProtocolError(f"the guest sent {dict(reply)!r} as a user")
        self._uid, self._home, self._workdir = uid, home, workdir
        self._renewal = asyncio.create_task(self._renew(membership), name="sandboxkit-user")

    def _ask(self) -> RemoteChannel:
        pids = self._whole.info.effective.pids
        request = {
            "op": "user",
            "name": self.user,
            "uid": self._uid,
            "shared": list(self.shared_folders),
            "processes": _NO_LIMIT if pids is None else max(pids // _SHARE, _FEWEST),
        }
        self._membership = self._client().channel(request)
        return self._membership

    async def _renew(self, membership: RemoteChannel) -> None:
        """Be the user again where a guest that lives has forgotten this host."""
        with contextlib.suppress(SandboxError):  # there is no sandbox any more
            while True:
                try:
                    await membership.finished()
                    return
                except ConnectionLostError:
                    membership.close()
                    membership = self._ask()

    # what is the user's

    @property
    def home(self) -> str:
        """The user's home directory."""
        return self._home

    @property
    def workdir(self) -> str:
        """The directory where the user's commands start and relative paths lead from."""
        return self._workdir

    def _who(self, user: str | None) -> str:
        if user not in {None, self.user}:
            raise InvalidSpecError(
                f"user: in this session all is done as {self.user!r}, and nothing as {user!r}; "
                "the sandbox itself can do that"
            )
        return _KEY + self.user

    # what is the machine's

    @property
    def info(self) -> SandboxInfo:
        """See `Sandbox.info`."""
        return self._whole.info

    async def health(self, *, deadline_s: float = DEADLINE_S) -> Health:
        """See `Sandbox.health`."""
        if self._closed:
            return await super().health(deadline_s=deadline_s)
        return await self._whole.health(deadline_s=deadline_s)

    async def pause(self) -> None:
        """See `Sandbox.pause`: for all who share it."""
        await self._whole.pause()

    async def resume(self) -> None:
        """See `Sandbox.resume`."""
        await self._whole.resume()

    async def snapshot(self, name: str | None = None) -> str:
        """See `Sandbox.snapshot`: with the files of all who share it."""
        return await self._whole.snapshot(name)

    # the end

    async def detach(self, *, keep_s: float) -> None:  # noqa: ARG002
        """A user ends with its session.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "a session in a shared sandbox cannot be detached: its user ends with it", op="detach"
        )

    async def destroy(self) -> None:
        """End the user, and nothing else: what runs as it is killed, its files are removed.

        Idempotent; cancellation waits until it is done, within 60 s. What takes longer goes on
        in the sandbox.
        """
        if not self._closed:
            self._closed = True
            await run_to_end(self._end(), deadline_s=2 * _END_S)

    async def aclose(self) -> None:
        """The same as `destroy`."""
        await self.destroy()

    async def _end(self) -> None:
        await cancel_and_wait(self._renewal)
        membership = self._membership
        try:
            if membership is not None and membership.done is None:
                with anyio.move_on_after(_END_S), contextlib.suppress(SandboxError):
                    await membership.call({"end": True})
        finally:
            if membership is not None:
                membership.close()
            self.ended.set()
