"""Files: what was written is read, byte for byte, and is never seen half."""

from __future__ import annotations

import stat

import anyio
import pytest

from sandboxkit.errors import SizeLimitError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.inside import until
from sandboxkit.testing.conformance.promise import promise

_ALL_BYTES = bytes(range(256)) * 1000


@promise
@pytest.mark.parametrize("data", [b"", b"x", b"no newline", _ALL_BYTES, b"z" * 5_000_000])
async def test_a_file_is_read_as_it_was_written(sandbox: Sandbox, folder: str, data: bytes) -> None:
    """Bytes come back exactly, whatever they are and however many."""
    await sandbox.files.write(f"{folder}/file", data)
    assert await sandbox.files.read(f"{folder}/file") == data
    assert (await sandbox.files.stat(f"{folder}/file")).size == len(data)


@promise
async def test_text_is_utf8(sandbox: Sandbox, folder: str) -> None:
    """Text is written and read as UTF-8, line ends untouched."""
    text = "é 日本\r\n\U0001f40d"
    await sandbox.files.write(f"{folder}/text", text)
    assert await sandbox.files.read(f"{folder}/text") == text.encode()
    assert await sandbox.files.read_text(f"{folder}/text") == text


@promise
async def test_commands_and_files_are_of_one_user_and_one_place(sandbox: Sandbox) -> None:
    """A command can change what was written, and a relative path starts where it does."""
    await sandbox.files.write("kit-shared", "one\n")
    await sandbox.sh("echo two >> kit-shared", check=True)
    assert await sandbox.files.read_text("kit-shared") == "one\ntwo\n"
    owner = await sandbox.sh("id -u")
    assert (await sandbox.files.stat("kit-shared")).uid == int(owner.text)
    await sandbox.files.remove("kit-shared")


@promise
async def test_appending_adds_to_the_end(sandbox: Sandbox, folder: str) -> None:
    """`append` keeps what is there, and makes what is not."""
    for piece in ("one ", "two ", "three"):
        await sandbox.files.write(f"{folder}/log", piece, append=True)
    assert await sandbox.files.read_text(f"{folder}/log") == "one two three"


@promise
async def test_an_exclusive_write_replaces_nothing(sandbox: Sandbox, folder: str) -> None:
    """`exclusive` makes a file, or raises `FileExistsError` and leaves what is there."""
    await sandbox.files.write(f"{folder}/new", "first", exclusive=True)
    with pytest.raises(FileExistsError):
        await sandbox.files.write(f"{folder}/new", "second", exclusive=True)
    assert await sandbox.files.read_text(f"{folder}/new") == "first"


@promise
async def test_of_exclusive_writers_one_wins(sandbox: Sandbox, folder: str) -> None:
    """However many try at once, one makes the file, and the others are told."""
    won: list[int] = []

    async def attempt(number: int) -> None:
        try:
            await sandbox.files.write(f"{folder}/lock", str(number), exclusive=True)
        except FileExistsError:
            return
        won.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(attempt, number)
    assert [int(await sandbox.files.read_text(f"{folder}/lock"))] == won


@promise
async def test_permission_bits_are_set_and_kept(sandbox: Sandbox, folder: str) -> None:
    """`mode` is exact; writing again without one keeps it; the default is not secret."""
    path = f"{folder}/script"
    await sandbox.files.write(path, "#!/bin/sh\necho one\n", mode=0o750)
    await sandbox.files.write(path, "#!/bin/sh\necho two\n")
    assert (await sandbox.files.stat(path)).mode == 0o750
    assert (await sandbox.exec([path])).text == "two\n"
    await sandbox.files.write(f"{folder}/plain", "")
    assert (await sandbox.files.stat(f"{folder}/plain")).mode == 0o644


@promise
async def test_missing_directories_are_made_unless_refused(sandbox: Sandbox, folder: str) -> None:
    """`parents` is the default; without it, a missing directory is `FileNotFoundError`."""
    await sandbox.files.write(f"{folder}/a/b/c", "deep")
    assert await sandbox.files.read_text(f"{folder}/a/b/c") == "deep"
    with pytest.raises(FileNotFoundError):
        await sandbox.files.write(f"{folder}/x/y", "", parents=False)
    assert not await sandbox.files.exists(f"{folder}/x")


@promise
async def test_a_reader_never_sees_half_a_file(sandbox: Sandbox, folder: str) -> None:
    """While a file is written again and again, each read is the old or the new content."""
    path, sizes = f"{folder}/config", (300_000, 500_000)
    await sandbox.files.write(path, b"0" * sizes[0])

    async def rewrite() -> None:
        for number in range(1, 15):
            await sandbox.files.write(path, str(number % 10).encode() * sizes[number % 2])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rewrite)
        for _ in range(30):
            content = await sandbox.files.read(path)
            assert len(content) in sizes
            assert len(set(content)) == 1


@promise
async def test_a_symlink_is_written_through(sandbox: Sandbox, folder: str) -> None:
    """Writing to a link changes what it points to, and the link stays."""
    await sandbox.sh("ln -s target link", cwd=folder, check=True)
    await sandbox.files.write(f"{folder}/link", "through")
    assert await sandbox.files.read_text(f"{folder}/target") == "through"
    found = await sandbox.files.stat(f"{folder}/link", follow=False)
    assert (found.kind, found.target) == ("symlink", "target")


@promise
async def test_reading_stops_at_the_limit(sandbox: Sandbox, folder: str) -> None:
    """A file of exactly the limit is read, a larger one is `SizeLimitError`."""
    await sandbox.files.write(f"{folder}/file", b"x" * 1000)
    assert len(await sandbox.files.read(f"{folder}/file", max_bytes=1000)) == 1000
    await sandbox.files.write(f"{folder}/file", b"x" * 1001)
    with pytest.raises(SizeLimitError, match="1000 bytes"):
        await sandbox.files.read(f"{folder}/file", max_bytes=1000)


@promise
async def test_a_huge_sparse_file_is_refused_by_its_limit(sandbox: Sandbox, folder: str) -> None:
    """What claims to be 50 GiB costs no more than the limit to refuse."""
    await sandbox.exec(["truncate", "-s", "50G", f"{folder}/sparse"], check=True)
    with anyio.fail_after(30), pytest.raises(SizeLimitError):
        await sandbox.files.read(f"{folder}/sparse", max_bytes=5_000_000)


@promise
async def test_a_file_is_read_as_a_stream(sandbox: Sandbox, folder: str) -> None:
    """A file of any size can be taken piece by piece, from anywhere in it."""
    await sandbox.files.write(f"{folder}/file", _ALL_BYTES)
    async with sandbox.files.open_read(f"{folder}/file", offset=1000, max_bytes=500) as stream:
        assert await stream.read() == _ALL_BYTES[1000:1500]
    async with sandbox.files.open_read(f"{folder}/file") as stream:
        assert await stream.receive(10) == _ALL_BYTES[:10]
    with pytest.raises(FileNotFoundError):
        async with sandbox.files.open_read(f"{folder}/none") as stream:
            await stream.read()


@promise
async def test_a_streamed_write_appears_when_it_is_done(sandbox: Sandbox, folder: str) -> None:
    """Until the block is left, the file has its old content."""
    await sandbox.files.write(f"{folder}/file", "old")
    async with sandbox.files.open_write(f"{folder}/file") as stream:
        for _ in range(20):
            await stream.write(b"x" * 100_000)
        assert await sandbox.files.read_text(f"{folder}/file") == "old"
    assert await sandbox.files.read(f"{folder}/file") == b"x" * 2_000_000


@promise
async def test_a_streamed_write_that_failed_changes_nothing(sandbox: Sandbox, folder: str) -> None:
    """Leaving the block by an exception leaves the old content, and nothing beside it."""
    await sandbox.files.write(f"{folder}/file", "old")

    async def fail() -> None:
        async with sandbox.files.open_write(f"{folder}/file") as stream:
            await stream.write(b"new" * 100_000)
            raise KeyError

    async def alone() -> bool:
        return [entry.name for entry in await sandbox.files.list(folder)] == ["file"]

    with pytest.raises(KeyError):
        await fail()
    await until(alone)
    assert await sandbox.files.read_text(f"{folder}/file") == "old"


@promise
async def test_stat_tells_what_stands_there(sandbox: Sandbox, folder: str) -> None:
    """Kind, size, mode, time and target are those of the file system."""
    script = "printf 12345 > f; chmod 640 f; touch -d @1000000000 f; mkdir d; mkfifo p; ln -s f l"
    await sandbox.sh(script, cwd=folder, check=True)
    found = {entry.name: entry for entry in await sandbox.files.list(folder)}
    kinds = {name: entry.kind for name, entry in found.items()}
    assert kinds == {"d": "directory", "f": "file", "l": "symlink", "p": "other"}
    assert (found["f"].size, found["f"].mode, found["f"].mtime) == (5, 0o640, 1_000_000_000)
    assert found["l"].target == "f"
    followed = await sandbox.files.stat(f"{folder}/l")
    assert (followed.kind, followed.size) == ("file", 5)
    assert stat.S_IMODE((await sandbox.files.stat(f"{folder}/d")).mode) & 0o700 == 0o700


@promise
async def test_exists_follows_links(sandbox: Sandbox, folder: str) -> None:
    """A dangling link is nothing, a file and a directory are something."""
    await sandbox.sh("touch f; mkdir d; ln -s f good; ln -s none bad", cwd=folder, check=True)
    there = {
        name: await sandbox.files.exists(f"{folder}/{name}") for name in ["f", "d", "good", "bad"]
    }
    assert there == {"f": True, "d": True, "good": True, "bad": False}
    assert not await sandbox.files.exists(f"{folder}/f/below")


@promise
async def test_directories_of_many_files_are_listed_whole(sandbox: Sandbox, folder: str) -> None:
    """A listing is complete and sorted by name, however long."""
    await sandbox.sh("seq 1 5000 | sed 's/^/n/' | xargs touch", cwd=folder, check=True)
    names = [entry.name for entry in await sandbox.files.list(folder)]
    assert names == sorted(f"n{number}" for number in range(1, 5001))
