"""The images that a session makes of its machine to sleep; each is good for one waking."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import SandboxError
from sandboxkit.journal import journal
from sandboxkit.lifecycle import DESTROY_S, choose

if TYPE_CHECKING:
    from sandboxkit.journal import Entry
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session.beginning import Wanted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """One of them.

    Attributes:
        backend: Where it is.
        name: What to give there as `image=`.
        entry: Its place in the journal: if this process dies, the reaper removes it.
    """

    backend: str
    name: str
    entry: Entry


class Images:
    """Those of one session.

    Args:
        wanted: What the session was made with.

    Attributes:
        last: The one to wake from; None if there is none.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._left: list[Image] = []  # that could not be removed
        self.last: Image | None = None

    async def make(self, sandbox: Sandbox) -> None:
        """Make one of a machine.

        Raises:
            SandboxError: See `Sandbox.snapshot`.
        """
        backend = sandbox.info.provider
        async with contextlib.AsyncExitStack() as undo:
            provider, _ = await choose(self._wanted.backend(backend), undo)
            name = await sandbox.snapshot()
            entry = await journal().image(provider.account(), name, sandbox.info)
            self.last = Image(backend, name, entry)

    async def forget(self) -> None:
        """Remove them all. Never raises."""
        if self.last is not None:
            self._left.append(self.last)
            self.last = None
        for image in list(self._left):
            try:
                await run_to_end(self._remove(image), deadline_s=DESTROY_S)
                self._left.remove(image)
            except (SandboxError, TimeoutError) as error:
                what = f"{image.name} at {image.backend}"
                log.warning("The image %s could not be removed: %s", what, error)

    async def _remove(self, image: Image) -> None:
        async with contextlib.AsyncExitStack() as undo:
            provider, _ = await choose(self._wanted.backend(image.backend), undo)
            await provider.remove_snapshot(image.name)
        await image.entry.end("removed")
