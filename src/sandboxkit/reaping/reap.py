"""One pass over one backend: what nobody owns is found, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import anyio
import anyio.to_thread

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import OperationTimeoutError, SandboxError
from sandboxkit.journal import IMAGE, Row, journal
from sandboxkit.journal.moments import now
from sandboxkit.lifecycle import choose
from sandboxkit.ownership import owner
from sandboxkit.providers.base import SandboxInfo, SandboxProvider
from sandboxkit.reaping.look import look
from sandboxkit.reaping.verdict import Times, Verdict, after_look, is_orphan, is_ours, judge
from sandboxkit.spec import KEY_LABEL, OWNER_LABEL

log = logging.getLogger(__name__)

_LIST_S: Final = 120.0
_CLOCK_S: Final = 20.0
_DESTROY_S: Final = 90.0
_AT_ONCE: Final = 10
_IMAGE: Final = "the image of a session that slept, and whose host is gone"
_FORGET_S: Final = 3600.0  # after which what no listing shows is taken for gone


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a pass has decided about one sandbox, or about an image that one slept as.

    Attributes:
        info: The sandbox, as the backend told it; of an image, its name as the id.
        action: `removed`; `kept`; `due`, which a pass that is no dry run removes; `failed`,
            due, but the backend did not remove it.
        why: The reason, in a few words.
    """

    info: SandboxInfo
    action: Literal["removed", "kept", "due", "failed"]
    why: str


async def reap(
    provider: str | SandboxProvider,
    *,
    dry_run: bool = False,
    everyone: bool = False,
    paused: bool = False,
) -> list[Reaped]:
    """Remove the sandboxes of one backend that have no living owner.

    An owner lives while a process that the journal knows holds the sandbox, or while a host
    on any machine holds its guest's lease. What sandboxkit has not made is never touched. Any
    number of reapers may run at once. docs/lifecycle.md has the rules.

    Args:
        provider: The backend, by name or as an object.
        dry_run: Whether to decide only.
        everyone: Whether those of other owners count, too: removed only where it is proven,
            by the guest or by the backend's own times, that nobody holds them.
        paused: Whether paused ones whose host is gone are removed, too.

    Returns:
        One for each sandbox that was looked at, in the backend's order; then one for each image
        that a session slept as (`on_idle="snapshot"`), where the journal knows that its host
        is gone.

    Raises:
        SandboxError: The backend cannot be asked. One sandbox that it does not remove is
            no error, but `failed`.

    Cancelling finishes the removals that are under way, within 90 s.
    """
    async with contextlib.AsyncExitStack() as undo:
        chosen, _owns = await choose(provider, undo)
        # In this order: who has claimed a sandbox before it was listed is then known.
        try:
            with anyio.fail_after(_LIST_S):
                found = [info async for info in chosen.list({})]
                rows = await journal().rows()
                found += await _missing(chosen, rows, found)
        except TimeoutError as error:
            raise OperationTimeoutError(
                f"{chosen.name} did not list its sandboxes within {_LIST_S:g} s",
                op="list",
                provider=chosen.name,
                retryable=True,
            ) from error
        ours = [info for info in found if is_ours(info) and _concerns(info, rows, everyone)]
        reaping = _Pass(chosen, rows, await _times(chosen), dry_run=dry_run, paused=paused)
        return [*await reaping.over(ours), *await reaping.images()]


class _Pass:
    def __init__(
        self,
        provider: SandboxProvider,
        rows: Mapping[str, Row],
        times: Times,
        *,
        dry_run: bool,
        paused: bool,
    ) -> None:
        self._provider = provider
        self._rows = rows
        self._times = times
        self._dry_run = dry_run
        self._paused = paused
        self._limit = asyncio.Semaphore(_AT_ONCE)

    async def over(self, found: Iterable[SandboxInfo]) -> list[Reaped]:
        tasks = [asyncio.ensure_future(self._one(info)) for info in found]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _one(self, info: SandboxInfo) -> Reaped:
        async with self._limit:
            verdict = await self._verdict(info)
            if verdict.do == "keep":
                return Reaped(info, "kept", verdict.why)
            if self._dry_run:
                return Reaped(info, "due", verdict.why)
            key = info.labels[KEY_LABEL]
            work = self._remove(info, key, verdict.why, self._provider.destroy)
            return await run_to_end(work, deadline_s=_DESTROY_S * 2)

    async def images(self) -> list[Reaped]:
        """Those that nobody can wake from any more."""
        done: list[Reaped] = []
        for row in _orphans(self._provider, self._rows):
            if not row.key.startswith(IMAGE):
                continue
            created = datetime.fromtimestamp(row.created, UTC)
            image, labels = row.key.removeprefix(IMAGE), {OWNER_LABEL: row.owner}
            info = SandboxInfo(image, row.provider, "stopped", labels, created)
            if self._dry_run:
                done.append(Reaped(info, "due", _IMAGE))
                continue
            work = self._remove(info, row.key, _IMAGE, self._provider.remove_snapshot)
            done.append(await run_to_end(work, deadline_s=_DESTROY_S * 2))
        return done

    async def _verdict(self, info: SandboxInfo) -> Verdict:
        row = self._rows.get(info.labels[KEY_LABEL])
        verdict = judge(info, row, self._times, paused=self._paused)
        if verdict.do == "look":
            seen = await look(self._provider, info.id)
            verdict = after_look(info, row, self._times, seen)
        return verdict

    async def _remove(
        self, info: SandboxInfo, key: str, why: str, remove: Callable[[str], Awaitable[None]]
    ) -> Reaped:
        if not await journal().condemn(key):
            return Reaped(info, "kept", "another process has just taken it up, or removes it")
        try:
            with anyio.fail_after(_DESTROY_S):
                await remove(info.id)
        except (SandboxError, TimeoutError) as error:
            await journal().pardon(key)
            said = str(error) or f"not within {_DESTROY_S:g} s"
            log.warning("%s could not be removed: %s", info.id, said)
            return Reaped(info, "failed", f"{why}; {said}")
        await journal().end(key, f"reaped: {why}")
        return Reaped(info, "removed", why)


async def _missing(
    provider: SandboxProvider, rows: Mapping[str, Row], found: Iterable[SandboxInfo]
) -> list[SandboxInfo]:
    """What the journal knows and the list does not show, by its key; where it is, or is not."""
    listed = {info.labels.get(KEY_LABEL) for info in found}
    late: list[SandboxInfo] = []
    for row in _orphans(provider, rows):
        if row.key in listed or row.key.startswith(IMAGE):
            continue
        seen = [
            info
            async for info in provider.list({KEY_LABEL: row.key})
            if info.labels.get(KEY_LABEL) == row.key
        ]
        # A row of the future was written before the clock was put right.
        if not seen and abs(time.time() - row.created) > _FORGET_S:
            await journal().end(row.key, "gone")
        late += seen
    return late


def _orphans(provider: SandboxProvider, rows: Mapping[str, Row]) -> list[Row]:
    """Of what the journal knows at this backend, all that nobody owns and that has not ended."""
    here = (provider.name, provider.account())
    mine = (row for row in rows.values() if (row.provider, row.account) == here)
    return [row for row in mine if row.ended is None and is_orphan(row)]


def _concerns(info: SandboxInfo, rows: Mapping[str, Row], everyone: bool) -> bool:  # noqa: FBT001
    return everyone or info.labels[KEY_LABEL] in rows or info.labels[OWNER_LABEL] == owner()


async def _times(provider: SandboxProvider) -> Times:
    here = await anyio.to_thread.run_sync(now)
    try:
        with anyio.fail_after(_CLOCK_S):
            return Times(here, await provider.clock())
    except (SandboxError, TimeoutError):
        return Times(here, None)
