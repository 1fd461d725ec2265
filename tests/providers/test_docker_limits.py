"""What an engine cannot enforce is refused or reported, before anything is created."""

from __future__ import annotations

from typing import Any

import pytest

from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.providers.docker.limits import enforceable, has_quotas
from tests.providers.conftest import MakeSpec, found

CAPABLE: dict[str, Any] = {
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "xfs"]],
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "NCPU": 4,
}


async def test_an_unknown_runtime_is_refused_and_the_known_ones_are_named(
    provider: DockerProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec(runtime="no-such-runtime")
    with pytest.raises(UnsupportedError, match=r"no-such-runtime.*runc"):
        await provider.create(spec)
    assert await found(provider, spec) == []


async def test_a_known_runtime_is_used(provider: DockerProvider, make_spec: MakeSpec) -> None:
    handle = await provider.create(make_spec(runtime="runc"))
    assert handle.info.effective.runtime == "runc"
    await handle.destroy()


async def test_disk_is_limited_or_refused_or_reported(
    provider: DockerProvider, make_spec: MakeSpec, api: Any
) -> None:
    demanded = make_spec(disk_gib=3)
    if has_quotas(api.info()):
        handle = await provider.create(demanded)
        options = api.inspect_container(handle.info.id)["HostConfig"]["StorageOpt"]
        assert options == {"size": str(3 * 1024**3)}
        await handle.destroy()
        return
    with pytest.raises(UnsupportedError, match=r"disk_gib=3 .*strict=False"):
        await provider.create(demanded)
    assert await found(provider, demanded) == []
    for spec, wanted in ((make_spec(disk_gib=3, strict=False), 3), (make_spec(), 5)):
        handle = await provider.create(spec)
        assert handle.info.effective.disk_gib is None
        (difference,) = handle.info.differences
        assert (difference.field, difference.wanted) == ("resources.disk_gib", wanted)
        assert "quota" in difference.reason
        await handle.destroy()


async def test_more_cpus_than_the_engine_has_are_refused(
    provider: DockerProvider, make_spec: MakeSpec, api: Any
) -> None:
    cores = api.info()["NCPU"]
    spec = make_spec(cpu=cores + 1)
    with pytest.raises(UnsupportedError, match=f"it has {cores} CPUs"):
        await provider.create(spec)
    assert await found(provider, spec) == []
    handle = await provider.create(make_spec(cpu=cores + 1, strict=False))
    assert handle.info.effective.cpu == cores
    await handle.destroy()


@pytest.mark.parametrize(
    ("lacking", "field", "applied"),
    [
        ({"MemoryLimit": False}, "memory_gib", None),
        ({"SwapLimit": False}, "memory_gib", 2.0),
        ({"PidsLimit": False}, "pids", None),
        ({"CpuCfsQuota": False}, "cpu", None),
        ({"NCPU": 1}, "cpu", 1.0),
    ],
)
def test_kernels_that_lack_a_limit(
    make_spec: MakeSpec, lacking: dict[str, Any], field: str, applied: float | None
) -> None:
    wanted: dict[str, float] = {"memory_gib": 2.0, "pids": 100, "cpu": 2.0}
    info = {**CAPABLE, **lacking}
    with pytest.raises(UnsupportedError, match=field):
        enforceable(make_spec(**wanted), info, gvisor=False, quotas=True)
    limits = enforceable(make_spec(**wanted, strict=False), info, gvisor=False, quotas=True)
    (difference,) = limits.differences
    assert difference.field == f"resources.{field}"
    assert getattr(limits, field) == difference.applied == applied


def test_a_capable_kernel_enforces_all(make_spec: MakeSpec) -> None:
    limits = enforceable(make_spec(disk_gib=7, pids=99), CAPABLE, gvisor=False, quotas=True)
    assert (limits.disk_gib, limits.pids, limits.differences) == (7, 99, ())


def test_gvisor_gets_room_for_its_own_threads(make_spec: MakeSpec) -> None:
    limits = enforceable(make_spec(), CAPABLE, gvisor=True, quotas=True)
    assert limits.pids is not None
    assert limits.pids >= 4096
    assert [difference.field for difference in limits.differences] == ["resources.pids"]


def test_which_storage_drivers_have_quotas() -> None:
    assert has_quotas(CAPABLE)
    assert has_quotas({"Driver": "btrfs"})
    assert not has_quotas({**CAPABLE, "DriverStatus": [["Backing Filesystem", "extfs"]]})
    assert not has_quotas({"Driver": "overlayfs", "DriverStatus": None})
