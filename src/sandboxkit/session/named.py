"""The one sandbox that has a name: taken up if it lives, and made if it does not.

Between the processes of one machine a lock decides (`alone`). Between machines: who has made
one looks who else has. A sandbox has its name for good once that is written down in it (`Memo`);
of those that have not, the oldest gets it. So of two makers at least one sees the other; who
comes later in the order gives up, and who comes first waits until the other has either
given up or written it down.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.errors import (
    AuthenticationError,
    ConnectionLostError,
    InvalidSpecError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.journal import Row, journal
from sandboxkit.making import take_up
from sandboxkit.network import Outside
from sandboxkit.ownership import owner
from sandboxkit.reaping.verdict import is_orphan, is_ours
from sandboxkit.sandbox import Sandbox
from sandboxkit.session.memo import Memo
from sandboxkit.session.sameness import asked_for, check_env, check_same, policy_for
from sandboxkit.spec import (
    ASKED_LABEL,
    CREATED_LABEL,
    KEY_LABEL,
    NAME_LABEL,
    OWNER_LABEL,
    SESSION_LABEL,
    SandboxSpec,
)

if TYPE_CHECKING:
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.settings import Gateway
    from sandboxkit.progress import Listener
    from sandboxkit.providers.base import SandboxInfo, SandboxProvider
    from sandboxkit.session.alone import Alone

log = logging.getLogger(__name__)

KEEP_S: Final = 3600.0
"""Seconds that a named session outlives its last host, by default."""

PATIENCE_S: Final = 180.0
"""Seconds after which one that is still being made, and whose maker cannot be seen, is given up:
more than a creation may take."""

_POLL_S: Final = 0.2
_UNREACHED_S: Final = 30.0
_LISTED_S: Final = 15.0  # Daytona's list by labels lags behind
_OLD_S: Final = 900.0  # older than any creation takes: its note was lost, not never written
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")


_SURE: Final = (AuthenticationError, InvalidSpecError, UnsupportedError)


class LostNameError(Exception):
    """Another machine has made a sandbox of this name at the same time, and keeps the name."""


@dataclass(slots=True)
class Taken:
    """The sandbox of a name.

    Attributes:
        sandbox: The sandbox.
        memo: What is written down in it.
        session: The id of its session.
        lived: Whether it was there before.
    """

    sandbox: Sandbox
    memo: Memo
    session: str
    lived: bool


def check_name(name: str) -> str:
    """The name.

    Raises:
        InvalidSpecError: It cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise InvalidSpecError(f"name={name!r} is not 1 to 63 letters, digits, '-', '_' and '.'")
    return name


@dataclass(slots=True)
class Named:
    """One name at one backend, while its lock is held.

    Attributes:
        name: The name.
        provider: The backend.
        lock: The lock.
        spec: What the caller asks for.
        keep_s: Seconds that the sandbox outlives its last host.
        secrets: As for `Sandbox.create`; so is `gateway`.
        gateway: See `secrets`.
    """

    name: str
    provider: SandboxProvider
    lock: Alone
    spec: SandboxSpec
    keep_s: float
    secrets: Sequence[Secret] = ()
    gateway: Gateway | None = None
    _passed: set[str] = field(default_factory=set[str])
    _unreached: dict[str, float] = field(default_factory=dict[str, float])

    async def find(self) -> Taken | None:
        """The one that lives, taken up; None where there is none.

        What is dead, or was never finished by a maker that is dead, is removed.

        Raises:
            InvalidSpecError: It is not what the caller asks for; the field is named.
            SandboxError: The backend cannot be asked.
        """
        began = time.monotonic()
        while True:
            rows = await journal().rows()
            unfinished: list[SandboxInfo] = []
            for info in await self._known():
                if info.state == "paused":
                    check_same(self.name, self.spec, info)  # before it is woken
                taken = None if info.state == "creating" else await self._taken(info)
                if taken is not None:
                    return taken
                if info.id not in self._passed:
                    unfinished.append(info)
            for info in unfinished:
                if info.id in self._unreached:  # perhaps it has just ended; else an error follows
                    continue
                late = time.monotonic() - began > PATIENCE_S
                if late or _maker_died(rows.get(info.labels.get(KEY_LABEL, ""))):
                    await self._remove(info, "its maker has not finished it")
            if not unfinished:
                return None
            await anyio.sleep(_POLL_S)

    async def make(self, spec: SandboxSpec, on_progress: Listener | None, wait_s: float) -> Taken:
        """Make one.

        Args:
            spec: What it shall be, with the session's label.
            on_progress: As for `Sandbox.create`; so is `wait_s`.
            wait_s: See `on_progress`.

        Raises:
            LostNameError: Another machine was quicker; what was made is removed.
            SandboxError: See `Sandbox.create`. Nothing is left behind.
        """
        sandbox = await Sandbox.create(
            self.provider,
            spec=self._labelled(spec),
            on_progress=on_progress,
            wait_s=wait_s,
            secrets=self.secrets,
            gateway=self.gateway,
        )
        try:
            await self.lock.remember(sandbox.info.labels[KEY_LABEL])
            if await self._wins(sandbox):
                session = spec.labels[SESSION_LABEL]
                memo = self._memo(sandbox, session)
                await memo.write()
                return Taken(sandbox, memo, session, lived=False)
        except BaseException:
            await sandbox.destroy()
            raise
        await sandbox.destroy()
        raise LostNameError

    async def remove_all(self) -> None:
        """End all that has this name.

        Raises:
            SandboxError: The backend does not let it.
        """
        for info in await self._known():
            await self._remove(info, "destroyed")
        await self.lock.forget()

    # who else there is

    async def _known(self) -> list[SandboxInfo]:
        """All of this name that have not ended, the oldest first; what has ended is removed."""
        found = await self._listed()
        key = self.lock.key
        if key and all(info.labels.get(KEY_LABEL) != key for info in found):
            found += [info async for info in self.provider.list({KEY_LABEL: key})]
        known: list[SandboxInfo] = []
        for info in sorted(found, key=_order):
            mine = info.labels.get(NAME_LABEL) == self.name and is_ours(info)
            if not mine or info.labels[OWNER_LABEL] != owner():
                continue
            if info.state == "stopped":
                await self._remove(info, "it has ended")
            elif info.id not in self._passed:
                known.append(info)
        return known

    async def _listed(self) -> list[SandboxInfo]:
        wanted = {NAME_LABEL: self.name, OWNER_LABEL: owner()}
        return [info async for info in self.provider.list(wanted)]

    async def _wins(self, sandbox: Sandbox) -> bool:
        """Whether a new one may have the name: nobody else has it, or an older claim to it."""
        began = time.monotonic()
        mine = _order(sandbox.info)
        while not any(info.id == sandbox.id for info in await self._listed()):
            if time.monotonic() - began > _LISTED_S:
                log.warning("%r is not in the backend's list yet", sandbox)
                break
            await anyio.sleep(_POLL_S)
        while others := [info for info in await self._known() if info.id != sandbox.id]:
            if any(_order(info) < mine for info in others):
                return False
            for info in others:
                taken = None if info.state == "creating" else await self._taken(info)
                if taken is not None:
                    await taken.sandbox.aclose()
                    return False
                late = time.monotonic() - began > PATIENCE_S
                if late and info.id not in self._passed | self._unreached.keys():
                    await self._remove(info, "its maker has not finished it")
            await anyio.sleep(_POLL_S)
        return True

    async def _taken(self, info: SandboxInfo) -> Taken | None:
        """Take it up; None where it has not got the name for good, or is gone."""
        policy = policy_for(self.name, self.spec, info)
        outside = Outside(self.secrets, self.gateway, policy)
        holding = self.spec.model_copy(update={"lease_s": self.keep_s})
        try:
            sandbox = Sandbox(await take_up(self.provider, info.id, outside, holding))
        except SandboxNotFoundError:
            self._passed.add(info.id)  # it is gone, or just being removed
            return None
        except SandboxDiedError:
            await self._remove(info, "its guest has ended")
            return None
        except _SURE:
            raise
        except SandboxError as error:
            self._unreachable(info, error)
            return None
        try:
            taken = await self._settled(sandbox, info)
        except BaseException as error:
            await sandbox.aclose()
            if not isinstance(error, SandboxError) or isinstance(error, _SURE):
                raise
            self._unreachable(info, error)
            return None
        if taken is None:
            await sandbox.aclose()
        return taken

    async def _settled(self, sandbox: Sandbox, info: SandboxInfo) -> Taken | None:
        """None where it has not got the name for good."""
        if not sandbox.info.guest:
            raise ConnectionLostError("its guest does not answer")
        memo = self._memo(sandbox, info.labels.get(SESSION_LABEL, ""))
        settled = await memo.read() or _is_old(info)
        self._unreached.pop(info.id, None)
        if not settled:
            return None
        check_same(self.name, self.spec, info)
        await check_env(self.name, self.spec, sandbox)
        return Taken(sandbox, memo, info.labels.get(SESSION_LABEL, ""), lived=True)

    def _unreachable(self, info: SandboxInfo, error: SandboxError) -> None:
        """It may just have been given up, and then it is soon not listed; else this is raised.

        What a backend says of a machine that is being ended can be anything.
        """
        if time.monotonic() - self._unreached.setdefault(info.id, time.monotonic()) > _UNREACHED_S:
            raise error

    async def _remove(self, info: SandboxInfo, why: str) -> None:
        """End one that is dead, or that nobody has finished."""
        log.info("%s, which had the name %r, is removed: %s", info.id, self.name, why)
        await self.provider.destroy(info.id)
        await journal().end(info.labels[KEY_LABEL], why)
        self._passed.add(info.id)

    def _memo(self, sandbox: Sandbox, session: str) -> Memo:
        return Memo(sandbox, self.provider.capabilities().guest_user, session)

    def _labelled(self, spec: SandboxSpec) -> SandboxSpec:
        labels = {**spec.labels, NAME_LABEL: self.name, ASKED_LABEL: asked_for(spec)}
        return spec.model_copy(update={"labels": labels, "lease_s": self.keep_s})


def _order(info: SandboxInfo) -> tuple[str, str]:
    return info.labels.get(CREATED_LABEL, ""), info.id


def _maker_died(row: Row | None) -> bool:
    """Whether a process of this machine was killed while it made it.

    One of another machine is in this journal, too, once somebody here has looked at it; who has
    looked and gone holds nothing.
    """
    return row is not None and any(hold.holder for hold in row.holds) and is_orphan(row)


def _is_old(info: SandboxInfo) -> bool:
    try:
        created = datetime.fromisoformat(info.labels.get(CREATED_LABEL, ""))
    except ValueError:
        return False
    return abs((datetime.now(UTC) - created).total_seconds()) > _OLD_S


__all__ = ["KEEP_S", "LostNameError", "Named", "Taken", "check_name"]
