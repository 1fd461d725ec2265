"""The one sandbox behind the tools: made when it is first wanted, never replaced in silence."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import (
    ConnectionLostError,
    InvalidSpecError,
    SandboxClosedError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
)
from sandboxkit.progress import Progress, listening

if TYPE_CHECKING:
    from sandboxkit.channel.process import Process
    from sandboxkit.channel.tunnels import Address
    from sandboxkit.lifecycle import Opening
    from sandboxkit.mcp.background import Background
    from sandboxkit.sandbox import Sandbox

log = logging.getLogger(__name__)

GONE: Final = (SandboxDiedError, SandboxNotFoundError, ConnectionLostError)
"""What says that a sandbox cannot be used any more."""

_STARTING: Final = "starting the sandbox"
_CLOSE_S: Final = 180.0  # a creation under way is let finish, and then undone
_REMEMBERED: Final = 50  # processes; of more, the oldest that have ended are forgotten


class Life:
    """One sandbox from its creation to its end, and what was opened in it.

    Attributes:
        processes: Those in the background, by the name that the agent knows.
        ports: The local addresses of forwarded ports.
        step: What is being done to make it ready.
    """

    def __init__(self, opening: Callable[[], Opening[Sandbox]]) -> None:
        self.processes: dict[str, Background] = {}
        self.ports: dict[int, Address] = {}
        self.step = _STARTING
        self._numbers = itertools.count(1)
        self._tunnels = contextlib.AsyncExitStack()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(self._open(opening))
        self._task.add_done_callback(_noted)

    @property
    def sandbox(self) -> Sandbox | None:
        """The sandbox, once it is ready."""
        done = self._task.done() and not self._task.cancelled() and not self._task.exception()
        return self._task.result() if done else None

    async def ready(self) -> Sandbox:
        """The sandbox, when it is ready. Cancelling does not stop its creation.

        Raises:
            SandboxError: It could not be created.
        """
        if not self._task.done():
            await asyncio.wait({self._task})
        if self._task.cancelled():
            raise SandboxClosedError("the sandbox was replaced while this call waited for it")
        return self._task.result()

    async def forward(self, port: int) -> Address:
        """Forward a port of the sandbox, to the same number on this machine if that is free."""
        sandbox = await self.ready()
        if port not in self.ports:
            try:
                tunnel = sandbox.ports.forward(port, local_port=port)
                self.ports[port] = await self._tunnels.enter_async_context(tunnel)
            except OSError:
                tunnel = sandbox.ports.forward(port)
                self.ports[port] = await self._tunnels.enter_async_context(tunnel)
        return self.ports[port]

    def keep(self, process: Process, command: str) -> str:
        """Keep a process in the background; its name."""
        from sandboxkit.mcp.background import Background

        for name in [name for name, each in self.processes.items() if each.over]:
            if len(self.processes) >= _REMEMBERED:
                del self.processes[name]
        name = f"p{next(self._numbers)}"
        self.processes[name] = Background(process, command)
        return name

    def process(self, name: str) -> Background:
        """A process in the background.

        Raises:
            InvalidSpecError: There is none of this name.
        """
        if name not in self.processes:
            known = ", ".join(self.processes) or "none"
            raise InvalidSpecError(f"there is no process {name!r}; known here: {known}")
        return self.processes[name]

    async def aclose(self) -> None:
        """End it; of a sandbox that was attached, only what was opened in it here."""
        await cancel_and_wait(self._task)
        with contextlib.suppress(SandboxError, OSError):
            await self._tunnels.aclose()
        await cancel_and_wait(*(each.watch for each in self.processes.values()))
        if self.sandbox is not None:
            await self.sandbox.aclose()
            log.info("sandbox %s: closed", self.sandbox.id)

    async def _open(self, opening: Callable[[], Opening[Sandbox]]) -> Sandbox:
        began = time.monotonic()
        with listening(self._heard):
            sandbox = await opening()
        log.info("sandbox %s: ready after %.1f s", sandbox.id, time.monotonic() - began)
        return sandbox

    def _heard(self, progress: Progress) -> None:  # from any thread
        step = _STARTING if progress.finished else progress.step
        amount = f" ({progress.done} of {progress.total} {progress.unit})" if progress.total else ""
        self._loop.call_soon_threadsafe(self._say, step, amount)

    def _say(self, step: str, amount: str) -> None:
        if not self.step.startswith(step):
            log.info("%s", step)
        self.step = step + amount


def _noted(task: asyncio.Task[Sandbox]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("no sandbox: %s", error)  # and those who wait raise it


class Machine:
    """Holds the sandbox for the tools.

    Args:
        opening: Creates the sandbox, or attaches to it.
        attached: Whether it is somebody else's, and only used here.
    """

    def __init__(self, opening: Callable[[], Opening[Sandbox]], *, attached: bool) -> None:
        self._opening = opening
        self._end: SandboxError | None = None
        self.attached = attached
        self.current: Life | None = None

    @property
    def ended(self) -> bool:
        """Whether the sandbox is gone, and no other has been asked for."""
        return self._end is not None

    @property
    def step(self) -> str:
        """What is being done now, in a few words."""
        life = self.current
        return life.step if life is not None and life.sandbox is None else "at work"

    async def life(self) -> Life:
        """The life of a sandbox that is ready; made if there is none yet.

        Raises:
            SandboxDiedError: It has ended, and `restart` was not called since.
            SandboxError: It could not be created; the next call tries again.
        """
        if self._end is not None:
            raise SandboxDiedError(
                f"the sandbox has ended: {self._end.message}", code=self._end.code
            )
        if self.current is None:
            self.current = Life(self._opening)
        life = self.current
        try:
            await life.ready()
        except SandboxError:
            if self.current is life:
                self.current = None
            raise
        return life

    async def lost(self, error: SandboxError, life: Life | None) -> None:
        """Take note that a sandbox is gone, and clean up after it."""
        if life is None or self.current is not life:
            return
        self.current = None
        if not self.attached:
            self._end = error
        log.info("the sandbox is gone: %s", error)
        await _close(life)

    async def restart(self) -> Life:
        """End the sandbox, with all that is in it, and make a new one.

        Raises:
            SandboxError: It could not be created.
        """
        old, self.current, self._end = self.current, None, None
        if old is not None:
            await _close(old)
        return await self.life()

    async def aclose(self) -> None:
        """End what is left; not cut short by cancellation."""
        if self.current is not None:
            await _close(self.current)


async def _close(life: Life) -> None:
    try:
        await run_to_end(life.aclose(), deadline_s=_CLOSE_S)
    except (SandboxError, TimeoutError) as error:
        log.warning("the sandbox ends with its lease: %s", error)
