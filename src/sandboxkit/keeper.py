"""Keeping a sandbox at its backend for as long as it is wanted, and no longer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Final

import anyio

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.fallback import Fallback
from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import OperationTimeoutError, SandboxDiedError, SandboxError
from sandboxkit.journal import Entry
from sandboxkit.places import Place
from sandboxkit.providers.base import SandboxHandle

log = logging.getLogger(__name__)

_SHORTEST_S: Final = 1.0
_LONGEST_S: Final = 20.0
_RENEW_S: Final = 15.0
_DESTROY_S: Final = 60.0


class Keeper:
    """Renews a sandbox's leases, at its backend and in the journal; ends it when its guest has.

    Args:
        handle: The sandbox.
        channel: The way into it.
        place: Its place among those that the account may have; given back when it has ended.
        entry: What the journal says of it: the lease there is renewed with the backend's.
        lease_s: For how long each renewal holds.
        renews: Whether the backend has a time to live that can be renewed.
        extends: Whether the backend ends it by a life-time of its own that can be put off.

    Attributes:
        place: See above.
    """

    def __init__(
        self,
        handle: SandboxHandle,
        channel: GuestClient | Fallback,
        place: Place,
        entry: Entry,
        lease_s: float,
        *,
        renews: bool,
        extends: bool = False,
    ) -> None:
        self.place = place
        self._entry = entry
        self._handle = handle
        self._client = channel if isinstance(channel, GuestClient) else None
        self._lease_s = lease_s
        self._renews = renews
        self._extends = extends
        self._told_end: datetime | None = None  # of the life-time, to the backend
        self._task: asyncio.Task[None] | None = None
        self._wanted = False

    def start(self) -> None:
        """Begin, or go on after `stop` or `rest`."""
        self._begin(self._keep())

    async def rest(self) -> None:
        """Only say in the journal that it is held, until `start` or `stop`: it is frozen."""
        await self.stop()
        self._begin(self._hold())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._wanted = True
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(work, name="sandboxkit-keeper")

    async def stop(self) -> None:
        """Stop; the sandbox lives on for as long as was last said."""
        self._wanted = False  # an SDK may swallow the cancellation
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def keep_for(self, seconds: float) -> None:
        """Have the sandbox live on for so long, without any host.

        Raises:
            SandboxError: The backend does not let it.
        """
        with anyio.fail_after(_RENEW_S):
            await self._follow_end()
            if self._renews:
                await self._handle.renew(seconds)

    async def _follow_end(self) -> None:
        """Tell the backend of an end that another host has put off, before it is renewed."""
        term = self._client.term if self._client is not None else None
        if not self._extends or term is None or term.left_s is None:
            return
        if term.ends_at != self._told_end:
            await self._handle.extend(max(0.0, term.left_s))
            self._told_end = term.ends_at

    async def extend(self, seconds: float) -> None:
        """Have the backend let the sandbox live until `seconds` from now, leases allowing.

        Raises:
            SandboxError: It does not.
        """
        if not self._extends:
            return
        try:
            with anyio.fail_after(_RENEW_S):
                await self._handle.extend(seconds)
                if self._renews:
                    held_s = self._client.held_s if self._client else self._lease_s
                    await self._handle.renew(held_s)
        except TimeoutError as error:
            raise OperationTimeoutError(
                f"the backend did not answer within {_RENEW_S:g} s; the end is where it was",
                op="extend",
                retryable=True,
            ) from error

    async def leave(self, seconds: float) -> None:
        """The same, said where others look, too: nobody here holds it any more.

        Raises:
            SandboxError: The backend does not let it.
        """
        await self._entry.keep(seconds)
        await self.keep_for(seconds)

    async def destroy(self) -> None:
        """End the sandbox, and say so.

        Raises:
            SandboxError: The backend does not let it.
        """
        await self._handle.destroy()
        await self._entry.end("destroyed")

    async def release(self) -> None:
        """Give back what it takes on this host."""
        self.place.release()
        await self._entry.release()

    async def _hold(self) -> None:
        while self._wanted:
            await self._entry.renew(self._lease_s)
            await anyio.sleep(self._every_s)

    @property
    def _every_s(self) -> float:
        return min(max(self._lease_s / 3, _SHORTEST_S), _LONGEST_S)

    async def _keep(self) -> None:
        failed = self._client.failed if self._client is not None else asyncio.Event()
        while not failed.is_set():
            held_s = self._client.held_s if self._client else self._lease_s
            try:
                await self.keep_for(held_s)
            except (SandboxError, TimeoutError) as error:
                log.warning("the sandbox could not be renewed, and is tried again: %s", error)
            await self._entry.renew(held_s)  # last: a disk that hangs must not cost the sandbox
            if not self._wanted:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(failed.wait(), self._every_s)
        if self._client is not None and isinstance(self._client.failure, SandboxDiedError):
            # The guest has ended; not every backend ends the machine with it.
            with contextlib.suppress(SandboxError), anyio.move_on_after(_DESTROY_S):
                await self.destroy()
            self.place.release()
