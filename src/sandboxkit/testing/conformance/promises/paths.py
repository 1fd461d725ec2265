"""Paths: every name works, every failure has its error, and nothing planted there harms."""

from __future__ import annotations

import anyio
import pytest

from sandboxkit.errors import (
    FileError,
    InvalidSpecError,
    PathNotFoundError,
    PathPermissionError,
    SizeLimitError,
    UnsafePathError,
)
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.inside import until
from sandboxkit.testing.conformance.promise import promise

_NAMES = [
    "a b", "é", "e\u0301", "日本", "\u202etxt", "new\nline", "'quote\"", "-rf", "*", "$HOME", "~",
    "\\", "x" * 255, "\udcff\udc80", " ", "...", "a;b|c&d", "%s", "\x01\x7f",
]  # fmt: skip


@promise
async def test_every_name_of_a_file_works(sandbox: Sandbox, folder: str) -> None:
    """Any name that Linux allows can be written, listed, read, moved and removed."""
    for name in _NAMES:
        await sandbox.files.write(f"{folder}/{name}", name.encode("utf-8", "surrogateescape"))
    listed = [entry.name for entry in await sandbox.files.list(folder)]
    assert sorted(listed) == sorted(_NAMES)
    for name in listed:
        content = await sandbox.files.read(f"{folder}/{name}")
        assert content.decode("utf-8", "surrogateescape") == name
        assert (await sandbox.files.stat(f"{folder}/{name}")).name == name
        await sandbox.files.move(f"{folder}/{name}", f"{folder}/moved")
        await sandbox.files.remove(f"{folder}/moved")
    assert await sandbox.files.list(folder) == []


@promise
async def test_what_is_missing_is_file_not_found(sandbox: Sandbox, folder: str) -> None:
    """Every operation on nothing raises `FileNotFoundError`, with its errno."""
    missing, files = f"{folder}/none", sandbox.files
    for call in (files.read, files.stat, files.list, files.remove):
        with pytest.raises(FileNotFoundError) as caught:
            await call(missing)
        assert caught.value.errno == 2
        assert missing in str(caught.value)
    with pytest.raises(FileNotFoundError):
        await files.move(missing, f"{folder}/other")


@promise
async def test_a_directory_is_no_file(sandbox: Sandbox, folder: str) -> None:
    """Reading or writing a directory raises `IsADirectoryError`, and it stays as it is."""
    await sandbox.files.write(f"{folder}/d/inside", "kept")
    with pytest.raises(IsADirectoryError):
        await sandbox.files.read(f"{folder}/d")
    for options in ({}, {"append": True}):
        with pytest.raises(IsADirectoryError):
            await sandbox.files.write(f"{folder}/d", "x", **options)
    assert await sandbox.files.read_text(f"{folder}/d/inside") == "kept"


@promise
async def test_a_file_is_no_directory(sandbox: Sandbox, folder: str) -> None:
    """Going through or listing a file raises `NotADirectoryError`."""
    await sandbox.files.write(f"{folder}/f", "")
    for call in (sandbox.files.list, sandbox.files.make_dir):
        with pytest.raises((NotADirectoryError, FileExistsError)):
            await call(f"{folder}/f")
    for look in (sandbox.files.read, sandbox.files.stat, sandbox.files.list):
        with pytest.raises(NotADirectoryError):
            await look(f"{folder}/f/below")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        await sandbox.files.write(f"{folder}/f/below", "")


@promise
async def test_making_a_directory_twice_is_told_if_asked_for(sandbox: Sandbox, folder: str) -> None:
    """`exist_ok` is the default; without it, it is `FileExistsError`."""
    await sandbox.files.make_dir(f"{folder}/a/b")
    await sandbox.files.make_dir(f"{folder}/a/b")
    with pytest.raises(FileExistsError):
        await sandbox.files.make_dir(f"{folder}/a/b", exist_ok=False)
    with pytest.raises(FileNotFoundError):
        await sandbox.files.make_dir(f"{folder}/x/y", parents=False)


@promise
async def test_what_the_user_may_not_do_is_permission_error(sandbox: Sandbox, folder: str) -> None:
    """Files are touched as the sandbox's user, with no more rights than that."""
    if (await sandbox.sh("id -u")).text.strip() == "0":
        return  # who may do all is refused nothing
    await sandbox.sh("mkdir shut; echo x > shut/f; chmod 0 shut", cwd=folder, check=True)
    for path in (f"{folder}/shut/f", "/etc/shadow"):
        with pytest.raises(PathPermissionError):
            await sandbox.files.read(path)
    for path in (f"{folder}/shut/g", "/etc/kit", "/etc/passwd"):
        with pytest.raises(PathPermissionError):
            await sandbox.files.write(path, "x")
    await sandbox.sh("chmod 700 shut", cwd=folder, check=True)


@promise
@pytest.mark.parametrize("path", ["", "a\0b"])
async def test_what_is_no_path_is_refused(sandbox: Sandbox, path: str) -> None:
    """An empty path, or one with NUL, is `InvalidSpecError`, before any I/O."""
    for call in (sandbox.files.read, sandbox.files.list, sandbox.files.remove):
        with pytest.raises(InvalidSpecError):
            await call(path)


@promise
async def test_a_name_that_is_too_long_is_told(sandbox: Sandbox, folder: str) -> None:
    """A name or path that the kernel refuses is a `FileError`, and the sandbox goes on."""
    for path in (f"{folder}/{'x' * 256}", "/".join([folder, *["d" * 200] * 30])):
        with pytest.raises(FileError):
            await sandbox.files.write(path, "x")
    assert await sandbox.files.list(folder) is not None


@promise
async def test_special_files_are_refused_without_waiting(sandbox: Sandbox, folder: str) -> None:
    """A FIFO, a device or a socket is `UnsafePathError` at once, read or written."""
    script = """
        mkfifo fifo; ln -s /dev/zero zero
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
    """
    await sandbox.sh(script, cwd=folder, check=True)
    with anyio.fail_after(20):
        for path in (f"{folder}/fifo", f"{folder}/zero", "/dev/zero", "/dev/tty"):
            with pytest.raises(FileError):
                await sandbox.files.read(path)
            with pytest.raises(FileError):
                await sandbox.files.write(path, "x")
        with pytest.raises(UnsafePathError):
            await sandbox.files.read("/dev/zero")
        with pytest.raises(FileError):
            await sandbox.files.read(f"{folder}/socket")
    assert (await sandbox.files.stat(f"{folder}/fifo")).kind == "other"


@promise
async def test_a_file_that_is_swapped_while_it_is_read_harms_nobody(
    sandbox: Sandbox, folder: str
) -> None:
    """A path that changes what it is all the time gives its content or an error: no hang."""
    await sandbox.sh("echo good > good; mkfifo fifo; ln -s good x", cwd=folder, check=True)
    script = """
        while :; do for t in good fifo /dev/zero; do ln -sfn $t new; mv -T new x; done; done
    """
    async with await sandbox.spawn(["sh", "-c", script], cwd=folder):
        await until(lambda: sandbox.files.exists(f"{folder}/x"))
        seen: set[str] = set()
        with anyio.fail_after(60):
            while not {"content", "refused"} <= seen:
                try:
                    content = await sandbox.files.read(f"{folder}/x", max_bytes=1000)
                except UnsafePathError:
                    seen.add("refused")
                except PathNotFoundError:
                    continue  # an overlay file system may show a rename half done
                except SizeLimitError:
                    pytest.fail("a device was read")
                else:
                    assert content == b"good\n"
                    seen.add("content")


@promise
async def test_a_loop_of_symlinks_is_refused(sandbox: Sandbox, folder: str) -> None:
    """A link that leads to itself is `UnsafePathError`."""
    await sandbox.sh("ln -s b a; ln -s a b", cwd=folder, check=True)
    with pytest.raises(UnsafePathError):
        await sandbox.files.read(f"{folder}/a")


@promise
async def test_removing_takes_what_was_named_and_no_more(sandbox: Sandbox, folder: str) -> None:
    """A link is removed, not what it leads to; a full directory only if asked for."""
    script = (
        "mkdir full empty; touch full/f kept; ln -s ../kept full/l; ln -s kept link; ln -s full to"
    )
    await sandbox.sh(script, cwd=folder, check=True)
    files = sandbox.files
    for name in ("link", "to", "empty"):
        await files.remove(f"{folder}/{name}")
    with pytest.raises(OSError, match="not empty"):
        await files.remove(f"{folder}/full")
    await files.remove(f"{folder}/full", recursive=True)
    assert [entry.name for entry in await files.list(folder)] == ["kept"]
    await files.remove(f"{folder}/none", missing_ok=True)


@promise
async def test_moving_replaces_only_if_asked_to(sandbox: Sandbox, folder: str) -> None:
    """A file at the target is `FileExistsError`, unless `overwrite`; directories move whole."""
    files = sandbox.files
    await files.write(f"{folder}/a", "a")
    await files.write(f"{folder}/b", "b")
    with pytest.raises(FileExistsError):
        await files.move(f"{folder}/a", f"{folder}/b")
    assert await files.read_text(f"{folder}/b") == "b"
    await files.move(f"{folder}/a", f"{folder}/b", overwrite=True)
    assert await files.read_text(f"{folder}/b") == "a"
    assert not await files.exists(f"{folder}/a")
    await files.write(f"{folder}/d/e/f", "deep")
    await files.move(f"{folder}/d", f"{folder}/moved")
    assert await files.read_text(f"{folder}/moved/e/f") == "deep"
