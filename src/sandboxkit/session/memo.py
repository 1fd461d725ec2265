"""What is written down in a named sandbox, for the hosts that come later."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sandboxkit.errors import FileError, SandboxError
from sandboxkit.spec import KEY_LABEL

if TYPE_CHECKING:
    from sandboxkit.channel.execution import ExecResult
    from sandboxkit.sandbox import Sandbox

log = logging.getLogger(__name__)

_STEP_S: Final = 30.0
_MOST: Final = 4096
_READ: Final = f'head -c {_MOST} "$1"'
_WRITE: Final = 'umask 077; mkdir -p "${1%/*}" && cat > "$1.new" && mv -f "$1.new" "$1"'
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"  # the sandbox's own may lead to what its user wrote


class Memo:
    """A note in a named sandbox: where its user cannot reach it, if there are two users.

    Args:
        sandbox: The sandbox.
        user: Who writes it: the guest's user; None is the sandbox's.
        conversation: The id of the conversation, until there is another.

    Attributes:
        conversation: The id by which the agent knows the conversation: an agent may go on
            under another one than it began with.
        begun: Whether there is a conversation that must be found.
    """

    def __init__(self, sandbox: Sandbox, user: str | None, conversation: str) -> None:
        self.conversation = conversation
        self.begun = False
        self._sandbox, self._user = sandbox, user
        directory = "/run" if user in {"root", "0"} else f"{sandbox.home}/.sandboxkit"
        self._path = f"{directory}/sandboxkit-session"
        self._key = sandbox.info.labels.get(KEY_LABEL, "")
        self._writing: asyncio.Task[None] | None = None

    async def read(self) -> bool:
        """Read it; whether there is one, which says that the sandbox has its name for good.

        Raises:
            SandboxError: The sandbox failed.
        """
        try:
            found: object = json.loads(await self._read())
        except ValueError:
            return False
        # One that was made from a snapshot of another has the other's.
        if not isinstance(found, dict) or found.get("key") != self._key:  # pyright: ignore[reportUnknownMemberType]
            return False
        conversation, begun = found.get("conversation"), found.get("begun")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if isinstance(conversation, str) and _is_uuid(conversation):
            self.conversation = conversation
        self.begun = begun is True
        return True

    async def _read(self) -> bytes:
        if self._user is None:
            try:
                return await self._sandbox.files.read(self._path, max_bytes=_MOST)
            except FileError:
                return b""
        return (await self._run(_READ)).stdout

    async def write(self) -> None:
        """Write it.

        Raises:
            SandboxError: The sandbox failed, or it cannot be written there.
        """
        fields = {"key": self._key, "conversation": self.conversation, "begun": self.begun}
        data = json.dumps(fields).encode()
        if self._user is None:
            await self._sandbox.files.write(self._path, data, parents=True)
            return
        (await self._run(_WRITE, data)).check()

    async def _run(self, script: str, stdin: bytes | None = None) -> ExecResult:
        return await self._sandbox.exec(
            ["/bin/sh", "-c", script, "sh", self._path],
            stdin=stdin,
            env={"PATH": _PATH},
            user=self._user,
            cwd="/",
            timeout_s=_STEP_S,
        )

    def turned(self, conversation: str) -> None:
        """A turn has ended in this conversation: written down soon, if that is news."""
        if (self.conversation, self.begun) == (conversation, True) or not _is_uuid(conversation):
            return
        self.conversation, self.begun = conversation, True
        self._writing = asyncio.create_task(self._write_after(self._writing))

    async def _write_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            await self.write()
        except SandboxError as error:
            log.warning("%r does not tell who comes next of its conversation: %s", self, error)

    async def aclose(self) -> None:
        """Wait until it is written."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_STEP_S)


def _is_uuid(value: str) -> bool:
    try:
        return str(UUID(value)) == value
    except ValueError:
        return False
