"""How a sandbox and a session are, told in a few seconds and without disturbing them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from sandboxkit.channel.fallback import Fallback
from sandboxkit.errors import SandboxError
from sandboxkit.spec import KEY_LABEL

if TYPE_CHECKING:
    from sandboxkit.channel.client import GuestClient
    from sandboxkit.providers.base import SandboxInfo, SandboxProvider

log = logging.getLogger(__name__)

HealthState = Literal["ok", "warn", "ill", "paused", "absent"]
"""
- `ok`: it does what it is there for.
- `warn`: it does, and `reason` says what to look at.
- `ill`: it does not, or did not answer in time.
- `paused`: it was told to wait.
- `absent`: there is none, and none is missing; `reason` says why.
"""

DEADLINE_S: Final = 5.0
"""Seconds for each part, all at once; what has not answered then is `ill`."""

NEARLY_FULL: Final = 0.9
"""From this share of the memory on, the machine is a `warn`."""

_MIB: Final = 1024 * 1024
_MARKS: Final[Mapping[str, str]] = {"paused": "paused", "absent": "none"}


@dataclass(frozen=True, slots=True)
class HealthPart:
    """One part of a session.

    Attributes:
        state: See `HealthState`.
        reason: In words; empty where all is well and nothing is to be said. Never a secret.
        latency_s: Seconds that its answer took; None where none was asked for, or none came.
        details: Figures, such as `memory_used_bytes`, `memory_limit_bytes` and `cpu_s` of the
            machine; docs/observability.md has them all.
    """

    state: HealthState
    reason: str = ""
    latency_s: float | None = None
    details: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def ok(self) -> bool:
        """Whether it is not `ill`."""
        return self.state != "ill"

    def __str__(self) -> str:
        words = [self.reason] if self.reason else []
        if self.latency_s is not None:
            words.append(f"{self.latency_s * 1000:.0f} ms")
        said = f" ({', '.join(words)})" if words else ""
        return f"{_MARKS.get(self.state, self.state)}{said}"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "ok": self.ok,
            "state": self.state,
            "reason": self.reason,
            "latency_s": self.latency_s,
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True)
class Health:
    """What was found; `str(health)` is one line.

    Attributes:
        at: When, aware, UTC.
        machine: The sandbox at its backend.
        guest: The program in it through which everything goes.
        agent: The agent; None in the health of a `Sandbox`.
        gateway: The way to the model, and out of the sandbox; likewise.
    """

    at: datetime
    machine: HealthPart
    guest: HealthPart
    agent: HealthPart | None = None
    gateway: HealthPart | None = None

    @property
    def parts(self) -> dict[str, HealthPart]:
        """Those that there are, by name."""
        parts = {"machine": self.machine, "guest": self.guest}
        more = {"agent": self.agent, "gateway": self.gateway}
        return parts | {name: part for name, part in more.items() if part is not None}

    @property
    def ok(self) -> bool:
        """Whether no part is ill."""
        return all(part.ok for part in self.parts.values())

    def __str__(self) -> str:
        parts = "; ".join(f"{name} {part}" for name, part in self.parts.items())
        return f"{'ok' if self.ok else 'ill'}: {parts}".replace("\n", " ")

    def as_dict(self) -> dict[str, object]:
        """For a health endpoint, as JSON: `ok`, `at`, and each part by its name."""
        parts = {name: part.as_dict() for name, part in self.parts.items()}
        return {"ok": self.ok, "at": self.at.isoformat(), **parts}


async def bounded(look: Coroutine[Any, Any, HealthPart], deadline_s: float) -> HealthPart:
    """What a look finds, or that it took too long. Raises nothing but the caller's cancellation.

    What does not listen to its own cancellation is not waited for.
    """
    task = asyncio.ensure_future(look)
    try:
        await asyncio.wait({task}, timeout=deadline_s)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda one: one.cancelled() or one.exception())
    if not task.done() or task.cancelled():
        return HealthPart("ill", f"no answer within {deadline_s:g} s")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, SandboxError):
        return HealthPart("ill", error.message)
    log.debug("a look at the health failed", exc_info=error)
    return HealthPart("ill", f"it cannot be looked at: {type(error).__name__}")


async def sandbox_health(
    provider: SandboxProvider,
    info: SandboxInfo,
    channel: GuestClient | Fallback,
    *,
    deadline_s: float = DEADLINE_S,
) -> Health:
    """How a sandbox is.

    Args:
        provider: Its backend.
        info: What is known of it; `state` is what this host has made it.
        channel: The way into it.
        deadline_s: Seconds for each of the two.
    """
    machine, guest = await asyncio.gather(
        bounded(_machine(provider, info), deadline_s),
        bounded(_guest(channel, info), deadline_s),
    )
    return Health(datetime.now(UTC), _with_figures(machine, guest, info), guest)


def nothing_there(reason: str) -> Health:
    """The health where there is no machine."""
    return Health(datetime.now(UTC), HealthPart("absent", reason), HealthPart("absent", reason))


async def _machine(provider: SandboxProvider, info: SandboxInfo) -> HealthPart:
    """Is it there, and in which state: by the backend's list, which touches nothing."""
    key, began = info.labels.get(KEY_LABEL), time.monotonic()
    found: SandboxInfo | None = None
    async for one in provider.list({KEY_LABEL: key} if key else {}):
        if one.id == info.id:
            found = one
    took = time.monotonic() - began
    if found is None:
        return HealthPart("ill", f"{info.provider} does not have it any more", took)
    if found.state in {"running", "creating"}:
        return HealthPart("ok", "", took, {"state": found.state})
    if found.state == info.state == "paused":
        return HealthPart("paused", "by this host", took, {"state": found.state})
    reason = f"it is {found.state}"
    if found.state == "paused":
        reason += ", and not by this host: nothing in it runs"
    state: HealthState = "warn" if found.state == "unknown" else "ill"
    return HealthPart(state, reason, took, {"state": found.state})


async def _guest(channel: GuestClient | Fallback, info: SandboxInfo) -> HealthPart:
    """A round trip through the channel. It is no activity, and waits for nothing."""
    if isinstance(channel, Fallback):
        return HealthPart("absent", "the image has no Python to run it")
    if channel.failure is not None:
        return HealthPart("ill", channel.failure.message)
    if info.state == "paused":
        return HealthPart("paused", "with its machine")
    began = time.monotonic()
    asking = channel.channel({"op": "health", "passive": True})
    try:
        said = await asking.finished()
    finally:
        asking.close()
    listening = said.get("listening")
    details: dict[str, object] = {"listening": listening if isinstance(listening, list) else []}
    for name in ("memory_used", "memory_limit", "cpu_s"):
        value = said.get(name)
        if isinstance(value, int | float) and 0 <= value < float("inf"):
            details[name] = value
    return HealthPart("ok", "", time.monotonic() - began, details)


def _with_figures(machine: HealthPart, guest: HealthPart, info: SandboxInfo) -> HealthPart:
    """The machine's state with what its guest has read from the kernel's files."""
    used, limit = guest.details.get("memory_used"), guest.details.get("memory_limit")
    if limit is None and info.effective.memory_gib is not None:
        limit = info.effective.memory_gib * 1024 * _MIB
    figures = {
        "memory_used_bytes": used,
        "memory_limit_bytes": limit,
        "cpu_s": guest.details.get("cpu_s"),
    }
    details = {**machine.details, **{n: v for n, v in figures.items() if v is not None}}
    machine = replace(machine, details=details)
    if machine.state != "ok" or not isinstance(used, int | float):
        return machine
    if not isinstance(limit, int | float) or not limit:
        return machine
    said = f"memory {used / _MIB:.0f} of {limit / _MIB:.0f} MiB"
    if used >= NEARLY_FULL * limit:
        return replace(machine, state="warn", reason=f"{said}: nearly full, memory_gib=... is more")
    return replace(machine, reason=said)
