"""The emulated Modal: images are built once, and made of a sandbox's files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import modal
import modal.exception
import pytest

from tests.emulators.modal import ModalEmulator
from tests.emulators.modal.driving import Create, registry, sh


async def test_an_image_is_built_once_with_files_and_commands(
    cloud: ModalEmulator, create: Create, app: Any, tmp_path: Path
) -> None:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "small").chmod(0o755)
    large = os.urandom(5 * 1024 * 1024)
    (tmp_path / "large").write_bytes(large)
    recipe = (
        registry("python:3.12")
        .add_local_file(tmp_path / "small", "/opt/bin/small", copy=True)
        .add_local_file(tmp_path / "large", "/opt/large", copy=True)
        .env({"COLOUR": "blue"})
        .run_commands("cat /opt/bin/small > /made; echo $COLOUR >> /made")
    )
    built = await recipe.build.aio(app)
    sandbox = await create(image=modal.Image.from_id(built.object_id))
    assert await sh(sandbox, "cat /made; echo $COLOUR") == "smallblue\nblue\n"
    assert await sh(sandbox, "stat -c %a:%U /opt/bin/small") == "755:root\n"
    assert (
        await sh(sandbox, "sha256sum < /opt/large") == hashlib.sha256(large).hexdigest() + "  -\n"
    )
    uploads = cloud.faults.calls["upload"]
    again = await recipe.build.aio(app)
    assert again.object_id == built.object_id
    assert cloud.faults.calls["upload"] == uploads


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # leaks files
async def test_a_very_large_file_comes_in_parts(
    cloud: ModalEmulator, create: Create, app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.uploads, "large", 5_000_000)
    monkeypatch.setattr(cloud.uploads, "part", 3_000_000)
    data = os.urandom(7_000_000)
    (tmp_path / "large").write_bytes(data)
    image = registry("x").add_local_file(tmp_path / "large", "/large", copy=True)
    sandbox = await create(image=await image.build.aio(app))
    assert await sh(sandbox, "sha256sum < /large") == hashlib.sha256(data).hexdigest() + "  -\n"


async def test_files_can_be_added_at_the_start(create: Create, image: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("added")
    sandbox = await create(image=image.add_local_file(tmp_path / "file", "/added/file"))
    assert await sh(sandbox, "cat /added/file") == "added"


async def test_an_image_that_is_not_there_cannot_be_built(app: Any) -> None:
    with pytest.raises(modal.exception.ImageBuildError, match="no-such-image"):
        await registry("example/no-such-image:1").build.aio(app)


async def test_a_failing_command_fails_the_build_and_is_in_the_log(
    app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    image = registry("x").run_commands("echo before it; exit 7")
    with modal.enable_output(), pytest.raises(modal.exception.ImageBuildError, match="code 7"):
        await image.build.aio(app)
    assert "before it" in capsys.readouterr().out


async def test_the_default_image_needs_no_build(create: Create, app: Any) -> None:
    sandbox = await create(image=await modal.Image.debian_slim().build.aio(app))
    assert await sh(sandbox, "echo here") == "here\n"


async def test_an_unknown_image_id_is_not_found(create: Create) -> None:
    with pytest.raises(modal.exception.NotFoundError, match="im-none"):
        await create(image=modal.Image.from_id("im-none"))


# Snapshots.


async def test_a_snapshot_of_all_files_starts_another_sandbox(create: Create) -> None:
    sandbox = await create(env={"COLOUR": "blue"})
    await sh(sandbox, "echo kept > /kept")
    snapshot = await sandbox.snapshot_filesystem.aio()
    await sh(sandbox, "echo later > /kept")
    other = await create(image=modal.Image.from_id(snapshot.object_id))
    assert await sh(other, "cat /kept") == "kept\n"


async def test_a_snapshot_of_a_directory_is_mounted_elsewhere(create: Create) -> None:
    sandbox = await create()
    await sh(sandbox, "mkdir -p /work/a; echo kept > /work/a/file")
    snapshot = await sandbox.snapshot_directory.aio("/work")
    other = await create()
    await sh(other, "mkdir -p /work; echo hidden > /work/own")
    await other.mount_image.aio("/work", snapshot)
    assert await sh(other, "cd /work; find . -type f; cat a/file") == "./a/file\nkept\n"
    with pytest.raises(modal.exception.ConflictError, match="already"):
        await other.mount_image.aio("/work", snapshot)
    await other.unmount_image.aio("/work")
    assert await sh(other, "ls /work") == "own\n"
    with pytest.raises(modal.exception.ConflictError, match="directory only"):
        await create(image=modal.Image.from_id(snapshot.object_id))
