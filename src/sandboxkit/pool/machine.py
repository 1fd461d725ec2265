"""One machine of a pool: made ready without an owner, checked, and given to one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.fallback import refuse
from sandboxkit.errors import (
    ConnectionLostError,
    InvalidSpecError,
    ProtocolError,
    SandboxDiedError,
    SandboxError,
)
from sandboxkit.network import Outside
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import NETWORK_LABEL, NetworkPolicy, SandboxSpec

log = logging.getLogger(__name__)

Content = bytes | str | os.PathLike[str]
"""What a file shall hold: bytes, text, or a file or directory of this machine."""

_ANSWER_S: Final = 5.0
_RENEWED_AT: Final = (0.7, 0.9)  # of the greatest age: those of one moment do not all go at once
_DEAD: Final = (SandboxDiedError, ConnectionLostError, ProtocolError)


class DeadMachineError(Exception):
    """The machine cannot be given to anybody; nothing is known against the next one."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What a machine gets when it is claimed.

    Attributes:
        spec: The pool's, with the owner's environment and policy.
        files: What is written into the work directory, by path.
        outside: The owner's secrets, and how the world is reached.
    """

    spec: SandboxSpec
    files: Mapping[str, Content]
    outside: Outside


def in_advance(spec: SandboxSpec, max_age_s: float) -> SandboxSpec:
    """The spec of a machine that has no owner yet.

    Its way out through the gateway is opened for its owner, and the time of its owner does
    not run while it waits; what the backend itself limits has room for the wait.
    """
    changes: dict[str, object] = {}
    if spec.idle_timeout_s is not None:
        changes["idle_timeout_s"] = None
    if spec.lifetime_s is not None:
        changes["lifetime_s"] = spec.lifetime_s + max_age_s
    if spec.network.by_gateway:
        changes["network"] = NetworkPolicy.none()
        changes["labels"] = {**spec.labels, NETWORK_LABEL: spec.network.mode}
    return spec.model_copy(update=changes)


class Machine:
    """A sandbox that waits for its owner.

    Args:
        sandbox: The sandbox, which nobody has used.
        max_age_s: Seconds after which it must not be given to anybody.

    Attributes:
        sandbox: See above.
        aged: Whether another one shall be made in its place; it can be claimed meanwhile.

    Raises:
        UnsupportedError: Its image cannot run the guest.
    """

    def __init__(self, sandbox: Sandbox, max_age_s: float) -> None:
        if not sandbox.info.guest:
            refuse("a pool")
        self.sandbox = sandbox
        self.aged = False
        self._guest = _guest(sandbox)
        now = time.monotonic()
        self._aged_at = now + max_age_s * random.uniform(*_RENEWED_AT)  # noqa: S311 - spreads
        self._ends_at = now + max_age_s

    def __repr__(self) -> str:
        return f"<Machine {self.sandbox.id}>"

    async def ageing(self) -> bool:
        """Wait until it is aged; whether it has died before."""
        died = await self._died_before(self._aged_at)
        self.aged = True
        return died

    async def ending(self) -> None:
        """Wait until it has died, or is too old."""
        await self._died_before(self._ends_at)

    async def _died_before(self, moment: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._guest.failed.wait(), max(0.0, moment - time.monotonic()))
        return self._guest.failed.is_set()

    async def give_to(self, owner: Owner) -> Sandbox:
        """Give it to an owner, in one round trip that also shows that it lives.

        Raises:
            DeadMachineError: It does not answer, or has died.
            SandboxError: What the owner has given cannot be put in force.
        """
        settings = owner.spec.model_dump(include={"env", "lifetime_s", "idle_timeout_s"})
        try:
            with anyio.fail_after(_ANSWER_S):
                await self._guest.change(settings)
        except InvalidSpecError:
            raise
        except (SandboxError, TimeoutError) as error:
            raise DeadMachineError(f"{self!r} does not answer: {error}") from error
        try:
            policy = owner.spec.network
            await self.sandbox.network.hand_over(policy, owner.outside, owner.spec.env)
            for path, content in owner.files.items():
                await _put(self.sandbox, path, content)
        except _DEAD as error:
            raise DeadMachineError(f"{self!r} has died: {error}") from error
        return self.sandbox


async def ended(sandboxes: Sequence[Sandbox]) -> None:
    """Destroy sandboxes, all at once, and wait until they are."""
    await asyncio.gather(*(_ended(sandbox) for sandbox in sandboxes))


async def _ended(sandbox: Sandbox) -> None:
    try:
        await sandbox.destroy()
    except (SandboxError, TimeoutError) as error:
        log.warning("%r could not be destroyed, and ends with its lease: %s", sandbox, error)
    await sandbox.ended.wait()  # somebody else may be at it


async def _put(sandbox: Sandbox, path: str, content: Content) -> None:
    if isinstance(content, bytes | str):
        await sandbox.files.write(path, content, parents=True)
    else:
        await sandbox.files.upload(Path(content), path)


def _guest(sandbox: Sandbox) -> GuestClient:
    return sandbox._client()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
