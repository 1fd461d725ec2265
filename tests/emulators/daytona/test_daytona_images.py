"""Images and snapshots of the emulated Daytona."""

from __future__ import annotations

import os
from pathlib import Path

import daytona
import pytest
from daytona import (
    AsyncDaytona,
    CreateSandboxFromImageParams,
    CreateSnapshotParams,
    Image,
    ListSandboxesQuery,
    Resources,
    SandboxState,
)

from tests.emulators.daytona import DaytonaEmulator
from tests.emulators.daytona.driving import ENOUGH_S, Create, eventually


async def test_a_snapshot_is_built_with_its_resources_files_and_log(
    client: AsyncDaytona, create: Create, tmp_path: Path
) -> None:
    source = tmp_path / "artifact"
    source.write_bytes(os.urandom(12 * 1024 * 1024))  # in several parts
    image = Image.base("python:3.12").add_local_file(str(source), "/opt/artifact")
    image = image.run_commands("chmod 755 /opt/artifact").env({"BUILT": "yes"})
    lines: list[str] = []
    params = CreateSnapshotParams(name="built", image=image, resources=Resources(cpu=2, memory=2))
    made = await client.snapshot.create(params, on_logs=lines.append, timeout=ENOUGH_S)
    assert (made.cpu, made.mem, made.disk) == (2, 2, 3)
    assert "chmod 755" in "".join(lines)
    with pytest.raises(daytona.DaytonaConflictError):
        await client.snapshot.create(params)
    assert "built" in {each.name for each in (await client.snapshot.list()).items}
    sandbox = await create(snapshot="built")
    said = await sandbox.process.exec("stat -c '%U %a %s' /opt/artifact; echo $BUILT")
    assert (said.result, sandbox.cpu) == (f"root 755 {12 * 1024 * 1024}\nyes\n", 2)
    await client.snapshot.delete("built")

    async def is_removed() -> bool:
        try:
            await client.snapshot.get("built")
        except daytona.DaytonaNotFoundError:
            return True
        return False

    await eventually(is_removed)
    with pytest.raises(daytona.DaytonaBadRequestError, match="not found"):
        await create(snapshot="built")


async def test_a_sandbox_is_built_from_an_image_with_resources(
    client: AsyncDaytona, cloud: DaytonaEmulator
) -> None:
    lines: list[str] = []
    params = CreateSandboxFromImageParams(
        image="python:3.12", resources=Resources(cpu=1, memory=2, disk=5)
    )
    sandbox = await client.create(params, timeout=60, on_snapshot_create_logs=lines.append)
    assert (sandbox.memory, sandbox.disk) == (2, 5)
    assert "Successfully built" in "".join(lines)
    await client.delete(sandbox, wait=True)


async def test_an_image_that_does_not_exist_fails_its_build(
    client: AsyncDaytona, cloud: DaytonaEmulator
) -> None:
    missing = "no-such-image:1"
    with pytest.raises(daytona.DaytonaError, match=f"BUILD_FAILED.*{missing}"):
        await client.create(CreateSandboxFromImageParams(image=missing, labels={"bad": "1"}))
    async for left in client.list(ListSandboxesQuery(labels={"bad": "1"})):
        await client.delete(left, wait=True)
    for image in (missing, Image.base(missing)):
        with pytest.raises(daytona.DaytonaError, match=missing):
            await client.snapshot.create(CreateSnapshotParams(name="bad", image=image))
        assert (await client.snapshot.get("bad")).state.value in {"error", "build_failed"}
        await client.snapshot.delete("bad")
        await eventually(lambda: _is_no_snapshot(cloud, "bad"))
    for refused in ("python", "python:latest"):
        with pytest.raises(daytona.DaytonaBadRequestError):
            await client.snapshot.create(CreateSnapshotParams(name="bad", image=refused))


async def _is_no_snapshot(cloud: DaytonaEmulator, name: str) -> bool:
    return name not in cloud.snapshots()


async def test_the_disk_of_a_sandbox_becomes_a_snapshot(
    client: AsyncDaytona, create: Create
) -> None:
    sandbox = await create()
    await sandbox.process.exec("echo kept > file")
    await sandbox.create_snapshot("disk")
    assert sandbox.state == SandboxState.STARTED.value
    copy = await create(snapshot="disk")
    assert (await copy.process.exec("cat file")).result == "kept\n"
    with pytest.raises(daytona.DaytonaConflictError):
        await sandbox.create_snapshot("disk")
    await client.snapshot.delete("disk")
