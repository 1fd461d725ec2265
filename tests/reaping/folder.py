"""A backend that is a folder, so that several processes, and killed ones, can share it.

A sandbox is a file, and a file beside it says what its guest would: there is no machine.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from anyio import to_thread

from sandboxkit.errors import ProviderUnavailableError, SandboxDiedError, SandboxNotFoundError
from sandboxkit.providers.base import (
    ByteChannel,
    Capabilities,
    Command,
    Output,
    SandboxHandle,
    SandboxInfo,
    SandboxProvider,
    State,
)
from sandboxkit.spec import KEY_LABEL, OWNER_LABEL, SandboxSpec


@dataclass
class Kept:
    """What is in a sandbox's file."""

    labels: dict[str, str]
    state: State = "running"
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    guest: str = "living"


class FolderProvider(SandboxProvider):
    """See above.

    Attributes:
        directory: The folder.
        destroyed: The ids that were to be destroyed through this object.
        looked: Those whose guest was asked.
        now: The backend's time; None where it does not tell.
        before_create, after_create: Called in the middle of a creation.
        broken: Whether it removes nothing.
        hidden: Those that only a question for their key shows.
    """

    name: ClassVar[str] = "folder"
    interface_version: ClassVar[int] = 1

    def __init__(self, folder: Path) -> None:
        self._folder = self.directory = folder
        folder.mkdir(exist_ok=True)
        self.destroyed: list[str] = []
        self.looked: list[str] = []
        self.now: datetime | None = None
        self.before_create: Callable[[], object] = bool
        self.after_create: Callable[[], object] = bool
        self.broken = False
        self.hidden: set[str] = set()

    def capabilities(self) -> Capabilities:
        return Capabilities(isolation="none", network=frozenset({"none", "open"}))

    def account(self) -> str:
        return str(self._folder)

    async def clock(self) -> datetime | None:
        return self.now

    def put(self, key: str, kept: Kept) -> str:
        (self._folder / key).write_text(json.dumps(asdict(kept)))
        return key

    def change(self, key: str, **fields: Any) -> None:
        self.put(key, Kept(**{**json.loads((self._folder / key).read_text()), **fields}))

    def ids(self) -> set[str]:
        return {path.name for path in self._folder.iterdir()}

    async def create(self, spec: SandboxSpec) -> FolderHandle:
        self.before_create()
        key = await to_thread.run_sync(self.put, spec.key, Kept(dict(spec.labels)))
        self.after_create()
        return FolderHandle(self, await to_thread.run_sync(self._info, self._folder / key))

    async def attach(self, sandbox_id: str) -> FolderHandle:
        path = self._folder / sandbox_id
        try:
            info = await to_thread.run_sync(self._info, path)
        except FileNotFoundError:
            raise SandboxNotFoundError(f"There is no sandbox of this id: {path.name}.") from None
        if OWNER_LABEL not in info.labels:
            raise SandboxNotFoundError("This was not made by sandboxkit.")
        return FolderHandle(self, info)

    def _infos(self) -> list[SandboxInfo]:
        found: list[SandboxInfo] = []
        for path in sorted(self._folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # just removed
                found.append(self._info(path))
        return found

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        for info in await to_thread.run_sync(self._infos):
            hidden = info.id in self.hidden and KEY_LABEL not in labels
            if not hidden and labels.items() <= info.labels.items():
                yield info

    def _info(self, path: Path) -> SandboxInfo:
        kept = Kept(**json.loads(path.read_text()))
        created = datetime.fromisoformat(kept.created)
        return SandboxInfo(path.name, self.name, kept.state, kept.labels, created)

    def guest(self, sandbox_id: str) -> str:
        self.looked.append(sandbox_id)
        kept = Kept(**json.loads((self._folder / sandbox_id).read_text()))
        return kept.guest

    def remove(self, sandbox_id: str) -> None:
        if self.broken:
            raise ProviderUnavailableError("the folder is out of order")
        self.destroyed.append(sandbox_id)
        (self._folder / sandbox_id).unlink(missing_ok=True)


class FolderHandle(SandboxHandle):
    """One file."""

    def __init__(self, provider: FolderProvider, info: SandboxInfo) -> None:
        self._provider = provider
        self.info = info

    async def spawn(self, command: Command) -> Guest:
        says = await to_thread.run_sync(self._provider.guest, self.info.id)
        if says == "gone":
            raise SandboxDiedError("The machine has ended.")
        return Guest(says)

    async def destroy(self) -> None:
        await to_thread.run_sync(self._provider.remove, self.info.id)


class Guest(ByteChannel):
    """Says one line, and ends."""

    def __init__(self, says: str) -> None:
        line = b"sandboxkit-no-python\n" if says == "no_python" else b"sandboxkit-guest-"
        self._output: list[bytes] = [line] if says == "no_python" else [line, f"{says}\n".encode()]

    async def send(self, data: bytes) -> None:
        assert data.endswith(b"\n")

    async def send_eof(self) -> None:
        return

    async def receive(self) -> Output | None:
        return Output(1, self._output.pop(0)) if self._output else None

    async def wait(self) -> int | None:
        return 0

    async def aclose(self) -> None:
        return
