"""The five verbs, in memory."""

from __future__ import annotations

import copy
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

from sandboxkit.errors import (
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


class MemoryProvider(SandboxProvider):
    """A backend for unit tests; see `sandboxkit.testing.memory`.

    Args:
        files: Files that every sandbox has from the start, by absolute path.
        capabilities: What it shall claim, so that code which demands limits, images or a
            network mode can run, or be seen to be refused. By default it claims
            nothing, as nothing is enforced. The claims are recorded, not fulfilled.

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
        files = MemoryFiles()
        files.fill(self._files)
        info = SandboxInfo(
            id=spec.key,
            provider=self.name,
            state="running",
            labels=dict(spec.labels),
            created_at=datetime.now(UTC),
            effective=self._effective(spec),
        )
        handle = MemoryHandle(self, info, Guest(spec.key, files, self._respond))
        self._living[info.id] = handle
        return handle

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

    def __init__(self, provider: MemoryProvider, info: SandboxInfo, guest: Guest) -> None:
        self.info = info
        self._provider = provider
        self.guest = guest

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
        return self.guest.connect()

    async def destroy(self) -> None:
        """End the sandbox, and all in it."""
        self._provider.forget(self.info.id)
        self.guest.end()
