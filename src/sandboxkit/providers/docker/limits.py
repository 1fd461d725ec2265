"""Which limits an engine really enforces, and what becomes of those that it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.base import Difference
from sandboxkit.spec import Resources, SandboxSpec

# gVisor's own threads count as well, and a tight limit kills it (64 did, in its first
# execs): it gets room, and the difference is reported.
_GVISOR_PIDS: Final = 4096
_QUOTA_DRIVERS: Final = frozenset({"btrfs", "zfs"})


class Limits(NamedTuple):
    """What will be applied; None is no limit."""

    cpu: float | None
    memory_gib: float | None
    disk_gib: float | None
    pids: int | None
    differences: tuple[Difference, ...]


class _Problem(NamedTuple):
    name: str
    applied: float | None
    reason: str


def enforceable(
    spec: SandboxSpec, info: Mapping[str, Any], *, gvisor: bool, quotas: bool
) -> Limits:
    """The limits that this engine enforces.

    Args:
        spec: What is wished, and what of it is a demand.
        info: What the engine says of itself.
        gvisor: Whether the runtime is gVisor.
        quotas: Whether the storage driver has disk quotas.

    Raises:
        UnsupportedError: A limit that the caller wrote cannot be enforced.
    """
    wanted = spec.resources
    applied: dict[str, Any] = wanted.model_dump()
    differences: list[Difference] = []
    for name, value, reason in _problems(wanted, info, gvisor=gvisor, quotas=quotas):
        field = f"resources.{name}"
        if spec.strict and spec.demands(field):
            raise UnsupportedError(
                f"{field}={applied[name]:g} cannot be enforced by this Docker engine: {reason} "
                "Leave it out, or pass strict=False to accept what the engine can do.",
                op="create",
                provider="docker",
            )
        differences.append(Difference(field, applied[name], value, reason))
        applied[name] = value
    return Limits(**applied, differences=tuple(differences))


def has_quotas(info: Mapping[str, Any]) -> bool:
    """Whether the storage driver may have quotas; on xfs, only a create tells for sure."""
    driver = info.get("Driver")
    backing = ["Backing Filesystem", "xfs"] in (info.get("DriverStatus") or [])
    return driver in _QUOTA_DRIVERS or (driver == "overlay2" and backing)


def _problems(
    wanted: Resources, info: Mapping[str, Any], *, gvisor: bool, quotas: bool
) -> Iterator[_Problem]:
    cores = float(info.get("NCPU") or wanted.cpu)
    if not info.get("CpuCfsQuota", True):
        yield _Problem("cpu", None, "its kernel has no CPU quotas.")
    elif wanted.cpu > cores:
        yield _Problem("cpu", cores, f"it has {cores:g} CPUs.")
    if not info.get("MemoryLimit", True):
        yield _Problem("memory_gib", None, "its kernel cannot limit memory.")
    elif not info.get("SwapLimit", True):
        reason = "its kernel limits memory, but not the swap used beside it."
        yield _Problem("memory_gib", wanted.memory_gib, reason)
    if not quotas:
        driver = info.get("Driver", "unknown")
        reason = f"its storage driver {driver} has no quotas (overlay2 has, on xfs with pquota)."
        yield _Problem("disk_gib", None, reason)
    if not info.get("PidsLimit", True):
        yield _Problem("pids", None, "its kernel cannot limit processes.")
    elif gvisor:
        reason = "gVisor's own threads count as well, so that the limit is not exact."
        yield _Problem("pids", max(wanted.pids, _GVISOR_PIDS), reason)
