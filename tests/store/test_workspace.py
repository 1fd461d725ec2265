"""Workspaces out of real sandboxes and back: byte for byte, and only what has changed."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandboxkit.errors import ProtocolError, SizeLimitError, StoreError, UnsafePathError
from sandboxkit.sandbox import Sandbox
from sandboxkit.store.blobs import PIECE, Blobs, path_of
from sandboxkit.store.capture import Captured, capture
from sandboxkit.store.manifest import parse
from sandboxkit.store.restore import keep_manifest, load_manifest, restore
from sandboxkit.store.workspace import Workspace

ALL = Workspace()

TREE = r"""
set -e
mkdir -p deep/er empty 'odd
name' node_modules/x
printf 'a\000b' > deep/er/zero
: > none
head -c 9000000 /dev/urandom > big
printf x > "$(printf 'caf\351')"
printf 'u' > 'ü 🎻"'
chmod 700 deep; chmod 755 none; chmod 444 deep/er/zero
ln -s deep/er/zero link; ln -s /etc/passwd out; ln -s nowhere dangling; ln big hard
mkfifo pipe
echo left > node_modules/x/out.js
echo secret > unreadable; chmod 000 unreadable
touch -d '2001-02-03 04:05:06' none
"""

# Names, kinds, modes, times and contents of all, one after the other.
TOLD = r"""
find . -mindepth 1 ! -type p ! -name unreadable -printf '%P %y %m %s %l\n' |
    sed 's/ d \([0-9]*\) .*/ d \1/' | sort
find . -type f ! -name unreadable -print0 | sort -z | xargs -0 stat -c '%n %Y'
find . -type f ! -name unreadable -print0 | sort -z | xargs -0 sha256sum
"""


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker") as sandbox:
        yield sandbox


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "files")


async def told(sandbox: Sandbox) -> str:
    return (await sandbox.sh(TOLD, check=True)).stdout.decode("utf-8", "surrogateescape")


async def age(sandbox: Sandbox) -> None:
    """Wait until no file is so young that it must be read again; the sandbox's clock tells."""
    since = "$(( $(date +%s) - $(stat -c %Z /tmp/now) ))"
    await sandbox.sh(f"touch /tmp/now; until [ {since} -gt 3 ]; do sleep 0.2; done")


async def test_there_and_back(sandbox: Sandbox, blobs: Blobs) -> None:
    await sandbox.sh(TREE, check=True)
    found = await capture(sandbox, blobs, Captured(), ALL)
    assert found.unread == ("unreadable",)
    manifest = await keep_manifest(blobs, found.tree)
    async with Sandbox.create("docker") as other:
        await other.sh("mkdir old deep; echo old > old/file; echo old > deep/other; ln -s /etc big")
        tree = await load_manifest(blobs, manifest, ALL)
        await restore(other, blobs, tree, ALL)
        assert await told(other) == await told(sandbox)
        again = await capture(other, blobs, Captured(tree), ALL)
        assert again.read_bytes == 0  # the store had all of it
        assert await keep_manifest(blobs, again.tree) == manifest


async def test_only_what_has_changed_is_read(sandbox: Sandbox, blobs: Blobs) -> None:
    await sandbox.sh(
        "head -c 9000000 /dev/urandom > big; echo one > a; echo two > b; mkdir d; echo 3 > d/c"
    )
    await age(sandbox)
    first = await capture(sandbox, blobs, Captured(), ALL)
    assert first.read_bytes == 9_000_000 + 4 + 4 + 2
    await sandbox.sh("echo TWO > b; rm a; mv d/c moved; printf x >> big; chmod 600 big; echo 5 > e")
    second = await capture(sandbox, blobs, first, ALL)
    # The last piece of the big one, `b` and `e`; what was moved is known.
    assert second.read_bytes == 9_000_001 - 2 * PIECE + 4 + 2
    assert set(second.tree.entries) == {"big", "b", "d", "moved", "e"}
    assert second.tree.entries["big"].mode == 0o600
    await age(sandbox)
    third = await capture(sandbox, blobs, second, ALL)
    fourth = await capture(sandbox, blobs, third, ALL)
    assert (fourth.read_bytes, fourth.tree.entries) == (0, second.tree.entries)
    # Nothing was even opened: a file whose content changed behind its status stays as it was.
    assert set(fourth.seen) == {"big", "b", "moved", "e"}


WRITER = """
import os
file = os.open("log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
while True:
    for _ in range(20_000):
        os.write(file, bytes(1000))
    os.ftruncate(file, 0)
"""


async def test_a_file_that_grows_and_shrinks_meanwhile(sandbox: Sandbox, blobs: Blobs) -> None:
    """It is taken as long as it was when it was opened, or shorter; nothing else is lost by it."""
    await sandbox.files.write("steady", "content")
    writer = await sandbox.spawn(["python3", "-c", WRITER])
    found = Captured()
    for _ in range(8):
        found = await capture(sandbox, blobs, found, ALL)
        assert set(found.tree.entries) <= {"log", "steady"}
        assert found.tree.entries["steady"].size == 7
    await writer.kill()
    size = (await sandbox.files.stat("log")).size
    last = await capture(sandbox, blobs, found, ALL)
    assert last.tree.entries["log"].size == size


async def test_excludes_and_limits(sandbox: Sandbox, blobs: Blobs) -> None:
    await sandbox.sh("mkdir -p node_modules/x build/sub a/node_modules; echo 1 > build/a.o")
    await sandbox.sh("echo 1 > build/a.c; echo 1 > node_modules/x/y; echo 1 > build/sub/b.o")
    rules = Workspace(excludes=("node_modules", "build/*.o"))
    found = await capture(sandbox, blobs, Captured(), rules)
    assert set(found.tree.entries) == {"build", "build/a.c", "build/sub", "a"}
    with pytest.raises(SizeLimitError, match="more than 5 files"):
        await capture(sandbox, blobs, Captured(), Workspace(max_entries=5))
    await sandbox.sh("head -c 5000000 /dev/zero > zeros")
    with pytest.raises(SizeLimitError, match="more than 4999999 bytes"):
        await capture(sandbox, blobs, Captured(), Workspace(max_bytes=4_999_999))
    manifest = await keep_manifest(blobs, found.tree)
    with pytest.raises(SizeLimitError, match="allowed are"):
        await load_manifest(blobs, manifest, Workspace(max_entries=3))


async def test_damage_is_found_before_it_is_in_a_sandbox(sandbox: Sandbox, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    await sandbox.files.write("a", "content")
    found = await capture(sandbox, blobs, Captured(), ALL)
    (piece,) = found.tree.entries["a"].pieces
    await capture(sandbox, blobs, found, ALL)
    other = await blobs.put(b"CONTENT")
    (tmp_path / path_of(other)).replace(tmp_path / path_of(piece))
    with pytest.raises(StoreError, match=f"{path_of(piece)} does not hold what was stored") as bad:
        await restore(sandbox, blobs, found.tree, ALL)
    assert bad.value.code == "damaged"
    assert (await sandbox.sh("cat a")).text == ""  # it may have been begun


async def test_a_file_in_the_way_of_the_walk(sandbox: Sandbox, blobs: Blobs) -> None:
    """The work directory is one thing; that a program of that name is planted is another."""
    await sandbox.files.write("hashlib.py", "raise SystemExit('planted')")
    await sandbox.files.write("json.py", "raise SystemExit('planted')")
    found = await capture(sandbox, blobs, Captured(), ALL)
    assert set(found.tree.entries) == {"hashlib.py", "json.py"}


def frames(*said: object) -> bytes:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in said]
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def a_file(name: str = "f", **more: object) -> dict[str, object]:
    return {"name": name, "kind": "file", "mode": 0o644, "mtime_ns": 1, "seen": None, **more}


END = {"end": True}
OTHERS = hashlib.sha256(b"of another session").hexdigest().encode()

HOSTILE: list[tuple[bytes, type[Exception], str]] = [
    (frames(a_file("../f"), b"", END), UnsafePathError, "leads outside"),
    (frames(a_file("/etc/f"), b"", END), UnsafePathError, "leads outside"),
    (frames(a_file("d/f"), b"", END), UnsafePathError, "no directory"),
    (frames(a_file(), b"h" + OTHERS, b"", END), UnsafePathError, "known, and is not"),
    (frames(a_file(kind="same"), END), UnsafePathError, "was not there"),
    (frames(a_file(), b"dx", b"dy", b"", END), ProtocolError, "not whole"),
    (frames(a_file(), b"d", b"", END), ProtocolError, "not whole"),
    (frames(a_file(mode="x"), b"", END), UnsafePathError, "does not"),
    (frames(b"[1]", END), ProtocolError, "nonsense"),
    (frames(b"[" * 60_000, END), ProtocolError, "nonsense"),
    (b"\xff" * 8, ProtocolError, "larger than allowed"),
    (frames(a_file(), b"dx"), ProtocolError, "ended in the middle"),
    (b"", ProtocolError, "ended in the middle"),
    (frames(*[{"kind": "unread", "name": "x"}] * 101), SizeLimitError, "more than 100 files"),
    (frames(a_file(), b"d" + bytes(2000), b"", END), SizeLimitError, "more than 1000 bytes"),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
async def test_what_the_sandbox_says_is_not_believed(
    planted: Sandbox, blobs: Blobs, number: int
) -> None:
    said, error, match = HOSTILE[number]
    assert await blobs.put(b"of another session") == OTHERS.decode()
    await planted.files.write("/tmp/said", said)
    rules = Workspace(max_entries=100, max_bytes=1000)
    with pytest.raises(error, match=match):
        await capture(planted, blobs, Captured(), rules)


async def test_what_can_be_is_taken(planted: Sandbox, blobs: Blobs) -> None:
    odd = a_file(mode=0o6755, seen=["x", 1, 2, 3])
    await planted.files.write("/tmp/said", frames(odd, b"dxyz", b"", END))
    found = await capture(planted, blobs, Captured(), ALL)
    assert (found.tree.entries["f"].mode, found.tree.entries["f"].size) == (0o755, 3)
    assert found.seen == {}


@pytest.fixture
async def planted(engine: str) -> AsyncIterator[Sandbox]:
    """Its `python3` says what is in a file."""
    path = "/tmp/bin:/usr/local/bin:/usr/bin:/bin"
    async with Sandbox.create("docker", env={"PATH": path}) as sandbox:
        await sandbox.files.write("/tmp/bin/python3", "#!/bin/sh\nexec cat /tmp/said", mode=0o755)
        yield sandbox


def test_names_that_lead_outside_are_no_entries() -> None:
    good = b'{"name":"a","kind":"symlink","mode":511,"mtime_ns":1,"target":"/etc"}'
    assert set(parse([good]).entries) == {"a"}
    below = b'{"name":"a/b","kind":"file","mode":511,"mtime_ns":1}'
    for bad in (
        [good, below],
        [good, good],
        [below],
        *([good.replace(b'"a"', name)] for name in (b'"../a"', b'"/a"', b'""', b'"a/../b"', b"3")),
        [good.replace(b'"a"', b'"\\u0000"')],
        [good.replace(b'"symlink"', b'"device"')],
        [good.replace(b'"/etc"', b'""')],
        [b"[" * 100_000],
    ):
        with pytest.raises(UnsafePathError):
            parse(bad)
