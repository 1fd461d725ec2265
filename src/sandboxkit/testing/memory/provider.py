"""The five verbs, in memory."""

from __future__ import annotations

import copy
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

from sandboxkit.errors import (
    ConnectionLostError,
    ImageError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.guest import CONNECT
from sandboxkit.providers.base import (
    Capabilities,
    Command,
    Effective,
    SandboxHandle,
    SandboxInfo,
    SandboxProvider,
)
from sandboxkit.spec import SandboxSpec
from sandboxkit.testing.memory.commands import Answer, Call, Commands, Handler, Matcher
from sandboxkit.testing.memory.files import MemoryFiles
from sandboxkit.testing.memory.guest import USER, Connection, Guest

_SNAPSHOT = "memory:"


class MemoryProvider(SandboxProvider):
    """A backend for unit tests; see `sandboxkit.testing.memory`.

    Args:
        files: Files that every sandbox has from the start, by absolute path.
        capabilities: What it shall claim, so that code which demands limits, images or a
            network mode can run, or be seen to be refused. By default it claims
            nothing, as nothing is enforced. The claims are recorded, not fulfilled, except for
            `pause`, which stops the connection though not the handlers, and `snapshot`.

    Attributes:
        calls: All commands that were asked for, in every sandbox, in their order.
        creates: How often a sandbox was asked for.
    """

    name: ClassVar[str] = "memory"
    interface_version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        files: Mapping[str, bytes | str] | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        claimed = capabilities or Capabilities(isolation="none", network=frozenset())
        # Files come through the channel, and there is nobody to be but the one user.
        self._capabilities = replace(claimed, artifacts=False, guest_user=None)
        self._files = dict(files or {})
        self._commands = Commands()
        self._living: dict[str, MemoryHandle] = {}
        self._images: dict[str, MemoryFiles] = {}
        self._refusals: list[tuple[SandboxError, bool]] = []
        self._account = secrets.token_hex(8)
        self.calls: list[Call] = []
        self.creates = 0

    def on(
        self,
        what: Sequence[str] | Matcher,
        handler: Handler | None = None,
        *,
        exit_code: int = 0,
        stdout: bytes | str = b"",
        stderr: bytes | str = b"",
    ) -> None:
        """Say what a command does. Of several that fit, the last one registered counts.

        Args:
            what: What the argument list starts with, such as `["git", "status"]`, or a
                function that is given it and says whether this is the one.
            handler: Called with the `Call`; gives an `Answer`, or None for success. A
                plain function is called when all input has been read, an async one at
                the start, to read and write as it goes. What it raises becomes a
                traceback on stderr, and exit code 1. A signal cancels it.
            exit_code: Without a handler, how the command ends.
            stdout: Likewise.
            stderr: Likewise.

        Raises:
            InvalidSpecError: `what` is a string or empty.
        """
        answer = Answer(exit_code, stdout, stderr)
        self._commands.add(what, handler or (lambda _call: answer))

    def refuse(self, error: SandboxError, *, times: int = 1, made: bool = False) -> None:
        """Let creations fail, after those that fail already.

        Args:
            error: What they raise, such as `CapacityError("full", retry_after_s=2)`.
            times: How many.
            made: Whether the sandbox is made all the same, as where the answer is lost.
        """
        self._refusals += [(error, made)] * times

    def cut(self, sandbox_id: str) -> None:
        """Break the connections into a sandbox, as a network does.

        The host makes new ones, and no process and no byte is lost: nothing of it may be
        seen in the application.

        Raises:
            KeyError: There is no sandbox of this id.
        """
        self._living[sandbox_id].guest.cut()

    def capabilities(self) -> Capabilities:
        """What was claimed; nothing by default."""
        return self._capabilities

    def account(self) -> str:
        """Each object is a service of its own, with limits of its own."""
        return self._account

    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        """Make a sandbox; see `SandboxProvider.create`."""
        self.creates += 1
        if not self._refusals:
            return self._make(spec)
        error, made = self._refusals.pop(0)
        if made:
            self._make(spec)
        raise copy.copy(error)

    def _make(self, spec: SandboxSpec) -> MemoryHandle:
        files = self._files_of(spec.image)
        info = SandboxInfo(
            id=spec.key,
            provider=self.name,
            state="running",
            labels=dict(spec.labels),
            created_at=datetime.now(UTC),
            effective=self._effective(spec),
        )
        handle = MemoryHandle(self, info, files, self._respond)
        self._living[info.id] = handle
        return handle

    def _files_of(self, image: str | None) -> MemoryFiles:
        if image is not None and image.startswith(_SNAPSHOT):
            if image not in self._images:
                raise ImageError(f"there is no image {image}", op="create", provider=self.name)
            return self._images[image].copied()
        files = MemoryFiles()
        files.fill(self._files)
        return files

    def keep(self, name: str, files: MemoryFiles) -> str:
        """Called by a sandbox of which a snapshot is made."""
        image = f"{_SNAPSHOT}{name}"
        self._images[image] = files
        return image

    async def remove_snapshot(self, image: str) -> None:
        """Remove an image; see `SandboxProvider.remove_snapshot`."""
        if not self._capabilities.snapshot:
            await super().remove_snapshot(image)
        self._images.pop(image, None)

    @property
    def images(self) -> frozenset[str]:
        """The snapshots that there are."""
        return frozenset(self._images)

    async def attach(self, sandbox_id: str) -> SandboxHandle:
        """Take up a sandbox; see `SandboxProvider.attach`."""
        handle = self._living.get(sandbox_id)
        if handle is None:
            raise SandboxNotFoundError(
                f"there is no sandbox {sandbox_id}", op="attach", provider=self.name
            )
        return handle

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """The sandboxes with these labels; see `SandboxProvider.list`."""
        for handle in list(self._living.values()):
            if labels.items() <= handle.info.labels.items():
                yield handle.info

    def forget(self, sandbox_id: str) -> None:
        """Called by a sandbox that is destroyed."""
        self._living.pop(sandbox_id, None)

    def lives(self, sandbox_id: str) -> bool:
        """Whether a sandbox has not been destroyed."""
        return sandbox_id in self._living

    def _respond(self, call: Call) -> Handler | None:
        self.calls.append(call)
        return self._commands.find(call.argv)

    def _effective(self, spec: SandboxSpec) -> Effective:
        can = self._capabilities
        limits = {name: getattr(spec.resources, name) for name in can.limits}
        return Effective(
            image=spec.image if can.images else None,
            network=spec.network.mode if spec.network.mode in can.network else None,
            user=spec.user or USER,
            workdir=spec.workdir,
            runtime=spec.runtime if can.runtimes else None,
            isolation=can.isolation,
            **limits,
        )


class MemoryHandle(SandboxHandle):
    """One sandbox in memory."""

    def __init__(
        self,
        provider: MemoryProvider,
        info: SandboxInfo,
        files: MemoryFiles,
        respond: Callable[[Call], Handler | None],
    ) -> None:
        self.info = info
        self._provider = provider
        self._files = files
        self.guest = Guest(info.id, files, respond)

    async def spawn(self, command: Command) -> Connection:
        """Connect to the guest.

        Raises:
            SandboxDiedError: The sandbox has been destroyed.
            UnsupportedError: Anything but sandboxkit's connector was to be started.
        """
        if not self._provider.lives(self.info.id):
            raise SandboxDiedError(
                "the sandbox has been destroyed", provider="memory", sandbox_id=self.info.id
            )
        if command.argv != CONNECT:
            raise UnsupportedError(
                "a sandbox in memory starts commands only by its channel, as Sandbox.exec does",
                op="spawn",
                provider="memory",
            )
        if self.info.state == "paused":
            raise ConnectionLostError(
                "the sandbox is paused", provider="memory", sandbox_id=self.info.id
            )
        return self.guest.connect()

    async def pause(self) -> None:
        """Let nobody connect."""
        if not self._provider.capabilities().pause:
            await super().pause()
        self.info = replace(self.info, state="paused")
        self.guest.cut()

    async def resume(self) -> None:
        """Let hosts connect again."""
        if not self._provider.lives(self.info.id):
            raise SandboxNotFoundError(
                "the sandbox has been destroyed", provider="memory", sandbox_id=self.info.id
            )
        self.info = replace(self.info, state="running")

    async def snapshot(self, name: str) -> str:
        """Keep the files."""
        if not self._provider.capabilities().snapshot:
            return await super().snapshot(name)
        return self._provider.keep(name, self._files.copied())

    async def destroy(self) -> None:
        """End the sandbox, and all in it."""
        self._provider.forget(self.info.id)
        self.guest.end()
