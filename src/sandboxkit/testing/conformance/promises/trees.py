"""Files and trees between this machine and a sandbox that is not trusted."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from sandboxkit.errors import SizeLimitError, UnsafePathError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.promise import promise

_Tree = dict[str, tuple[str, int, bytes]]


def _plant(top: Path) -> None:
    for name in ("empty", "a/b/c", "a/é 日本"):
        (top / name).mkdir(parents=True)
    (top / "a/b/c/data").write_bytes(bytes(range(256)) * 2000)
    (top / "a/b/run.sh").write_text("#!/bin/sh\necho ran\n")
    (top / "a/b/run.sh").chmod(0o750)
    (top / "a/new\nline").write_text("odd")
    (top / os.fsdecode(b"\xff\xfe")).write_bytes(b"not UTF-8")
    (top / "a/empty").touch()
    (top / "a/link").symlink_to("b/c/data")
    (top / "dangling").symlink_to("nowhere")
    os.utime(top / "a/b/run.sh", (1_000_000_000, 1_000_000_000))


def _look(top: Path) -> _Tree:
    """Every entry: its kind, its permission bits, its content or target."""
    found: _Tree = {}
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode & 0o777
        if path.is_symlink():
            found[str(path.relative_to(top))] = ("symlink", 0, str(path.readlink()).encode())
        elif path.is_dir():
            found[str(path.relative_to(top))] = ("directory", mode, b"")
        else:
            found[str(path.relative_to(top))] = ("file", mode, path.read_bytes())
    return found


async def _looked(top: Path) -> _Tree:
    return await anyio.to_thread.run_sync(_look, top)


@promise
async def test_a_tree_comes_back_as_it_went(sandbox: Sandbox, folder: str, tmp_path: Path) -> None:
    """Content, names, permission bits, times, symlinks and empty directories are kept."""
    await anyio.to_thread.run_sync(_plant, tmp_path / "up")
    await sandbox.files.upload(tmp_path / "up", f"{folder}/tree")
    assert (await sandbox.exec([f"{folder}/tree/a/b/run.sh"])).text == "ran\n"
    assert (await sandbox.files.stat(f"{folder}/tree/a/b/run.sh")).mtime == 1_000_000_000
    down = await sandbox.files.download(f"{folder}/tree", tmp_path / "down")
    assert down == tmp_path / "down"
    assert await _looked(down) == await _looked(tmp_path / "up")


@promise
async def test_a_thousand_files_cross(sandbox: Sandbox, folder: str, tmp_path: Path) -> None:
    """A tree of many small files arrives whole, in both directions."""

    def plant() -> None:
        for number in range(1000):
            path = tmp_path / "up" / f"d{number % 20}" / f"f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(number) * number)

    await anyio.to_thread.run_sync(plant)
    await sandbox.files.upload(tmp_path / "up", folder)
    assert (await sandbox.sh("find . -type f | wc -l", cwd=folder)).text.strip() == "1000"
    await sandbox.files.download(folder, tmp_path / "down")
    assert await _looked(tmp_path / "down") == await _looked(tmp_path / "up")


@promise
async def test_a_single_file_crosses_with_its_mode(
    sandbox: Sandbox, folder: str, tmp_path: Path
) -> None:
    """`upload` and `download` take a file as well as a directory."""
    local, back = anyio.Path(tmp_path / "tool"), anyio.Path(tmp_path / "back")
    await local.write_bytes(b"#!/bin/sh\necho tool\n")
    await local.chmod(0o755)
    await sandbox.files.upload(tmp_path / "tool", f"{folder}/bin/tool")
    assert (await sandbox.exec([f"{folder}/bin/tool"])).text == "tool\n"
    await sandbox.files.download(f"{folder}/bin/tool", tmp_path / "back")
    assert await back.read_bytes() == await local.read_bytes()
    assert (await back.stat()).st_mode & 0o777 == 0o755


@promise
async def test_a_download_that_failed_changes_nothing(
    sandbox: Sandbox, folder: str, tmp_path: Path
) -> None:
    """What stands on this machine is replaced by a whole file, or not at all."""
    local = anyio.Path(tmp_path / "local")
    await local.write_text("kept")
    await sandbox.sh("mkfifo fifo; echo 12345 > file", cwd=folder, check=True)
    with anyio.fail_after(20), pytest.raises(UnsafePathError):
        await sandbox.files.download(f"{folder}/fifo", tmp_path / "local")
    with pytest.raises(SizeLimitError):
        await sandbox.files.download(f"{folder}/file", tmp_path / "local", max_bytes=5)
    assert await local.read_text() == "kept"
    assert [path.name async for path in anyio.Path(tmp_path).iterdir()] == ["local"]


@promise
@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "a/../../secret", "/"])
async def test_a_planted_link_that_leads_outside_is_refused(
    sandbox: Sandbox, folder: str, tmp_path: Path, target: str
) -> None:
    """A download with a symlink out of the tree is `UnsafePathError`, and makes no link."""
    await sandbox.sh('mkdir -p t/a; ln -s "$0" t/a/link', cwd=folder, check=True)
    await sandbox.exec(["ln", "-sfn", target, f"{folder}/t/a/link"], check=True)
    with pytest.raises(UnsafePathError):
        await sandbox.files.download(f"{folder}/t", tmp_path / "down")
    assert not await anyio.Path(tmp_path / "down/a/link").is_symlink()


@promise
async def test_a_download_never_writes_through_a_link_on_this_machine(
    sandbox: Sandbox, folder: str, tmp_path: Path
) -> None:
    """A link that stands in the target directory is not followed, whoever made it."""
    await sandbox.files.write(f"{folder}/t/way/file", "from the sandbox")
    outside, down = anyio.Path(tmp_path / "outside"), anyio.Path(tmp_path / "down")
    await outside.mkdir()
    await down.mkdir()
    await (down / "way").symlink_to(outside)
    with pytest.raises((UnsafePathError, NotADirectoryError)):
        await sandbox.files.download(f"{folder}/t", tmp_path / "down")
    assert [path async for path in outside.iterdir()] == []


@promise
async def test_an_upload_never_writes_through_a_link_in_the_sandbox(
    sandbox: Sandbox, folder: str, tmp_path: Path
) -> None:
    """A link planted in the target directory is refused or replaced, not followed."""
    await sandbox.sh(
        "mkdir out t; ln -s ../out t/way; ln -s ../kept t/file", cwd=folder, check=True
    )
    await anyio.Path(tmp_path / "up/way").mkdir(parents=True)
    await anyio.Path(tmp_path / "up/way/inside").write_text("x")
    await anyio.Path(tmp_path / "up/file").write_text("x")
    with pytest.raises((UnsafePathError, NotADirectoryError)):
        await sandbox.files.upload(tmp_path / "up", f"{folder}/t")
    assert await sandbox.files.list(f"{folder}/out") == []
    assert not await sandbox.files.exists(f"{folder}/kept")


@promise
async def test_special_files_are_left_out_of_a_download(
    sandbox: Sandbox, folder: str, tmp_path: Path
) -> None:
    """FIFOs and sockets are passed over, without waiting for anyone."""
    await sandbox.sh("mkdir t; cd t; mkfifo fifo; echo x > file", cwd=folder, check=True)
    with anyio.fail_after(20):
        await sandbox.files.download(f"{folder}/t", tmp_path / "down")
    assert list(await _looked(tmp_path / "down")) == ["file"]


@promise
async def test_special_files_in_an_upload_are_told(
    sandbox: Sandbox, folder: str, tmp_path: Path
) -> None:
    """What cannot be uploaded is `UnsafePathError` that names it; a missing tree is told too."""
    await anyio.Path(tmp_path / "up").mkdir()
    await anyio.to_thread.run_sync(os.mkfifo, tmp_path / "up/fifo")
    with anyio.fail_after(20), pytest.raises(UnsafePathError, match="fifo"):
        await sandbox.files.upload(tmp_path / "up", f"{folder}/t")
    with pytest.raises(FileNotFoundError):
        await sandbox.files.upload(tmp_path / "none", f"{folder}/t")


@promise
async def test_a_download_stops_at_its_limits(
    sandbox: Sandbox, folder: str, tmp_path: Path
) -> None:
    """Bytes and entries are counted as they come: a sparse file is no way round."""
    await sandbox.sh("mkdir t; truncate -s 50G t/sparse", cwd=folder, check=True)
    for remote in (f"{folder}/t", f"{folder}/t/sparse"):
        with anyio.fail_after(30), pytest.raises(SizeLimitError):
            await sandbox.files.download(remote, tmp_path / "down", max_bytes=5_000_000)
    await sandbox.sh("mkdir m; cd m; seq 1 200 | xargs touch", cwd=folder, check=True)
    with pytest.raises(SizeLimitError):
        await sandbox.files.download(f"{folder}/m", tmp_path / "many", max_entries=100)
    await sandbox.files.download(f"{folder}/m", tmp_path / "all", max_entries=200, max_bytes=0)


@promise
async def test_privileged_bits_do_not_cross(sandbox: Sandbox, folder: str, tmp_path: Path) -> None:
    """Setuid, setgid and sticky bits are dropped, in both directions."""

    def plant() -> None:
        (tmp_path / "up").mkdir()
        (tmp_path / "up/tool").touch()
        (tmp_path / "up/tool").chmod(0o6755)

    await anyio.to_thread.run_sync(plant)
    await sandbox.files.upload(tmp_path / "up", f"{folder}/t")
    assert (await sandbox.files.stat(f"{folder}/t/tool")).mode == 0o755
    await sandbox.sh("chmod 6755 t/tool", cwd=folder, check=True)
    await sandbox.files.download(f"{folder}/t", tmp_path / "down")
    assert (await anyio.Path(tmp_path / "down/tool").stat()).st_mode & 0o7777 == 0o755


@promise
async def test_a_tree_is_merged_into_what_is_there(
    sandbox: Sandbox, folder: str, tmp_path: Path
) -> None:
    """Other files stay; a file over a directory is `IsADirectoryError`, and that is kept."""
    await sandbox.files.write(f"{folder}/t/other", "stays")
    await sandbox.files.write(f"{folder}/t/d/inside", "kept")
    up = anyio.Path(tmp_path / "up")
    await up.mkdir()
    await (up / "new").write_text("new")
    await sandbox.files.upload(tmp_path / "up", f"{folder}/t")
    assert [e.name for e in await sandbox.files.list(f"{folder}/t")] == ["d", "new", "other"]
    await (up / "d").write_text("a file")
    with pytest.raises(IsADirectoryError):
        await sandbox.files.upload(tmp_path / "up", f"{folder}/t")
    with pytest.raises(IsADirectoryError):
        await sandbox.files.upload(tmp_path / "up/d", f"{folder}/t/d")
    assert await sandbox.files.read_text(f"{folder}/t/d/inside") == "kept"
