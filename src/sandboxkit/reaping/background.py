"""A reaper beside an application, for as long as that runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import InvalidSpecError, SandboxError
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.reaping.reap import Reaped, reap

log = logging.getLogger(__name__)

_EVERY_S: Final = 300.0


class Reaper:
    """Reaps now and again, in a task of its own; an `async with` block.

    ```python
    async with sk.Reaper("docker", "e2b", every_s=600):
        await serve()
    ```

    It begins with a pass at once. A backend that cannot be asked is said in the log and asked
    again the next time; nothing is raised in the block.

    Args:
        *providers: The backends, by name or as objects.
        every_s: Seconds from the end of one pass to the next.
        everyone: As for `reap`; so is `paused`.
        paused: See `everyone`.

    Attributes:
        removed: What has been removed so far.
        passes: How many passes there have been.

    Raises:
        InvalidSpecError: `every_s` is not above 0, or there is no backend.
    """

    def __init__(
        self,
        *providers: str | SandboxProvider,
        every_s: float = _EVERY_S,
        everyone: bool = False,
        paused: bool = False,
    ) -> None:
        if not every_s > 0:
            raise InvalidSpecError(f"every_s must be above 0 seconds, not {every_s!r}")
        if not providers:
            raise InvalidSpecError("name at least one provider to reap")
        self._providers: Sequence[str | SandboxProvider] = providers
        self._every_s = every_s
        self._everyone, self._paused = everyone, paused
        self._task: asyncio.Task[None] | None = None
        self._passed = asyncio.Condition()
        self.removed: list[Reaped] = []
        self.passes = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work(), name="sandboxkit-reaper")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def passed(self, count: int = 1) -> None:
        """Wait until there have been so many passes."""
        async with self._passed:
            await self._passed.wait_for(lambda: self.passes >= count)

    async def _work(self) -> None:
        while True:
            for provider in self._providers:
                await self._over(provider)
            async with self._passed:
                self.passes += 1
                self._passed.notify_all()
            await asyncio.sleep(self._every_s)

    async def _over(self, provider: str | SandboxProvider) -> None:
        name = provider if isinstance(provider, str) else provider.name
        try:
            done = await reap(provider, everyone=self._everyone, paused=self._paused)
        except SandboxError as error:
            log.warning("%s could not be reaped, and is tried again: %s", name, error)
            return
        for one in done:
            if one.action == "removed":
                log.info("removed %s on %s: %s", one.info.id, name, one.why)
                self.removed.append(one)
