"""What `sandboxkit doctor` finds out about a Docker engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sandboxkit.cli.checks import Check, failed
from sandboxkit.errors import SandboxError
from sandboxkit.providers.registry import providers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandboxkit.providers.docker.api import Json
    from sandboxkit.providers.docker.engine import Engine


async def check_engine() -> AsyncIterator[Check]:
    """The engine that the environment names, else the machine's own."""
    try:
        providers.load("docker")  # says what to install where its package is missing
        from sandboxkit.providers.docker.engine import Engine

        engine = Engine()
        try:
            info = await engine.info()
            version = info.get("ServerVersion", "of unknown version")
            yield Check("ok", "Docker engine", f"{version} at {engine.host}")
            for check in _limits(info):
                yield check
            yield _runtimes(info)
            yield await _default_image(engine)
        finally:
            await engine.aclose()
    except SandboxError as error:
        yield failed("Docker engine", error)


def _limits(info: Json) -> Iterator[Check]:
    from sandboxkit.providers.docker.limits import has_quotas

    cgroup = f"version {info.get('CgroupVersion', '1')}, driver {info.get('CgroupDriver')}"
    needed = {"MemoryLimit": "memory", "CpuCfsQuota": "CPU", "PidsLimit": "processes"}
    missing = [what for flag, what in needed.items() if not info.get(flag, True)]
    if missing:
        advice = "Enable these cgroup controllers in the engine's kernel."
        yield Check("warn", "cgroup", f"{cgroup}: no limit on {', '.join(missing)}", advice)
    else:
        yield Check("ok", "cgroup", f"{cgroup}: memory, CPU and processes are limited")
    driver = f"storage driver {info.get('Driver')}"
    if has_quotas(info):
        yield Check("ok", "Disk limit", f"{driver} has quotas (overlay2 on xfs: with pquota)")
    else:
        advice = "A disk limit that you ask for is refused; overlay2 on xfs with pquota has them."
        yield Check("warn", "Disk limit", f"{driver} has no quotas", advice)


def _runtimes(info: Json) -> Check:
    names = sorted(name for name in info.get("Runtimes", {}) if not name.startswith("io."))
    found = f"{', '.join(names)} (default {info.get('DefaultRuntime')})"
    if "runsc" in names:
        return Check("ok", "Runtimes", f"{found}; runtime='runsc' is gVisor")
    return Check("ok", "Runtimes", f"{found}; gVisor (runsc) is not installed")


async def _default_image(engine: Engine) -> Check:
    from sandboxkit.providers.docker import base_image
    from sandboxkit.providers.docker.failures import status_of

    name = await base_image.tag()
    try:
        found = await engine.call("image.inspect", lambda api: api.inspect_image(name))
    except SandboxError as error:
        if status_of(error) != 404:
            raise
        advice = "It is built now, for the check below, and then kept."
        return Check("warn", "Default image", f"{name} is not built yet", advice)
    return Check("ok", "Default image", f"{name}, {found.get('Size', 0) / 1e6:.0f} MB")
