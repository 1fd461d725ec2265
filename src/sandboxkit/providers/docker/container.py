"""From a spec to the one request that creates a hardened container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sandboxkit.errors import UnsupportedError
from sandboxkit.guest import MAIN
from sandboxkit.providers.base import Difference, Effective, SandboxInfo, State
from sandboxkit.providers.docker.api import Json, nested
from sandboxkit.providers.docker.images import Image
from sandboxkit.providers.docker.limits import enforceable
from sandboxkit.providers.remembered import EFFECTIVE_LABEL, recall, remember
from sandboxkit.spec import SandboxSpec

# What the guest, and only the guest, needs: to become the sandbox's user, and to end
# what runs as it. A process that is not root has none of these.
CAPABILITIES: Final = ("KILL", "SETGID", "SETUID")

_GIB: Final = 1024**3
_STATES: Final[Mapping[str, State]] = {
    "created": "creating",
    "running": "running",
    "paused": "paused",
    "exited": "stopped",
    "dead": "stopped",
    "removing": "stopped",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be applied, and where that is not what the spec wishes."""

    effective: Effective
    differences: tuple[Difference, ...]


def plan(spec: SandboxSpec, image: Image, info: Mapping[str, Any], *, quotas: bool) -> Plan:
    """Decide what this engine will apply. Nothing has been created yet.

    Args:
        spec: What is wished.
        image: The image, on the engine.
        info: What the engine says of itself.
        quotas: Whether its storage driver has disk quotas.

    Raises:
        UnsupportedError: The spec demands what the engine cannot do.
    """
    runtimes = sorted(nested(info, "Runtimes"))
    if spec.runtime is not None and spec.runtime not in runtimes:
        raise UnsupportedError(
            f"The Docker engine has no runtime {spec.runtime!r}. It has: {', '.join(runtimes)}.",
            op="create",
            provider="docker",
        )
    runtime = spec.runtime or str(info.get("DefaultRuntime", "runc"))
    gvisor = _is_gvisor(runtime, info)
    limits = enforceable(spec, info, gvisor=gvisor, quotas=quotas)
    effective = Effective(
        image=image.name,
        cpu=limits.cpu,
        memory_gib=limits.memory_gib,
        disk_gib=limits.disk_gib,
        pids=limits.pids,
        network=spec.network.mode,
        user=spec.user or image.user,
        workdir=spec.workdir,
        runtime=runtime,
        isolation="gvisor" if gvisor else "container",
    )
    return Plan(effective, limits.differences)


def _is_gvisor(runtime: str, info: Mapping[str, Any]) -> bool:
    known = nested(nested(info, "Runtimes"), runtime)
    return any("runsc" in str(name) for name in (runtime, known.get("path"), known.get("type")))


def request(spec: SandboxSpec, image: Image, plan: Plan, volumes: Mapping[str, str]) -> Json:
    """The body of the create request.

    Args:
        spec: What is wished.
        image: The image.
        plan: What will be applied.
        volumes: Read-only volumes, by the directory they are mounted at.
    """
    effective = plan.effective
    memory = int(effective.memory_gib * _GIB) if effective.memory_gib else 0
    host: Json = {
        "CapDrop": ["ALL"],
        "CapAdd": list(CAPABILITIES),
        "SecurityOpt": ["no-new-privileges:true"],
        "Init": True,
        "NanoCpus": int(effective.cpu * 1e9) if effective.cpu else 0,
        "Memory": memory,
        "MemorySwap": memory,  # memory and swap together: no swap
        "PidsLimit": effective.pids or 0,
        "NetworkMode": "none" if effective.network == "none" else "bridge",
        "IpcMode": "private",
        "AutoRemove": True,
        "LogConfig": {"Type": "none", "Config": {}},
        "Mounts": [
            {
                "Type": "volume",
                "Source": volume,
                "Target": directory,
                "ReadOnly": True,
                "VolumeOptions": {"NoCopy": True},
            }
            for directory, volume in volumes.items()
        ],
    }
    if spec.runtime is not None:
        host["Runtime"] = spec.runtime
    if effective.disk_gib is not None:
        host["StorageOpt"] = {"size": str(int(effective.disk_gib * _GIB))}
    return {
        "Image": image.id,
        "Entrypoint": list(MAIN),  # the image's own is not run
        "Cmd": [],
        "User": "0",
        "WorkingDir": "/",
        "Labels": {
            **spec.labels,
            EFFECTIVE_LABEL: remember(plan.effective, plan.differences),
        },
        "Healthcheck": {"Test": ["NONE"]},
        "OpenStdin": True,
        # When the host that is attached dies, stdin ends: a main process that still
        # waits for the guest's code ends too, and the container with it.
        "StdinOnce": True,
        "HostConfig": host,
    }


def describe(
    container_id: str, labels: Mapping[str, str] | None, state: str, created_at: datetime | None
) -> SandboxInfo:
    """What the engine and the labels say of a container of ours."""
    plain, effective, differences = recall(labels)
    return SandboxInfo(
        id=container_id,
        provider="docker",
        state=_STATES.get(state, "unknown"),
        labels=plain,
        created_at=created_at,
        effective=effective,
        differences=differences,
    )
