"""File trees as streams: whatever the other side sends stays below the top."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from sandboxkit.guest import trees
from sandboxkit.guest.trees import TooLarge, TreeError

SEEDS = range(60)


def entry(name: object, kind: object = "file", content: bytes = b"", **rest: object) -> bytes:
    header = json.dumps({"name": name, "kind": kind, "mode": 0o644, "mtime": 1.5, **rest}).encode()
    data = struct.pack(">I", len(header)) + header
    if kind == "file":
        data += (struct.pack(">I", len(content)) + content) if content else b""
        data += bytes(4)
    return data


def unpack(top: Path, *entries: bytes, confined: bool = True, **limits: Any) -> int:
    return trees.unpack(io.BytesIO(b"".join(entries) + bytes(4)), str(top), confined, **limits)


def seen(top: Path) -> dict[str, object]:
    """All below `top`: what it is, its bits, and its content or target."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = path.read_bytes(), stat.S_IMODE(status.st_mode), int(status.st_mtime)
        found[str(path.relative_to(top))] = (stat.S_IFMT(status.st_mode), content)
    return found


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    deep = source / "a dir" / "\n" / "ü"
    deep.mkdir(parents=True)
    (source / "empty").mkdir()
    (deep / "big").write_bytes(random.Random(1).randbytes(700_000))
    (source / "none").touch()
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o751)
    os.utime(source / "run", (5, 1_000_000))
    (source / "link").symlink_to("a dir/\n")
    (deep / "up").symlink_to("../../../run")
    (source / "dangling").symlink_to("nowhere")
    packed = io.BytesIO()
    assert trees.pack(str(source), packed) == []
    packed.seek(0)
    target = tmp_path / "target"
    count = trees.unpack(packed, str(target), confined=True)
    assert seen(target) == seen(source)
    assert count == len(seen(source))


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    name = os.fsencode(tmp_path / "source") + b"/\xff\xfe"
    Path(os.fsdecode(name)).write_bytes(b"x")
    packed = io.BytesIO()
    trees.pack(str(tmp_path / "source"), packed)
    packed.seek(0)
    trees.unpack(packed, str(tmp_path / "target"), confined=True)
    assert os.listdir(os.fsencode(tmp_path / "target")) == [b"\xff\xfe"]  # noqa: PTH208 - bytes


def test_what_is_no_file_is_left_out_and_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"x")
    packed = io.BytesIO()
    assert trees.pack(str(tmp_path), packed) == ["fifo"]
    packed.seek(0)
    assert trees.unpack(packed, str(tmp_path / "out"), confined=True) == 1


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/etc/passwd", "a/../b", "../x", "a//b", "a/", "./a", "a\0b", "a/..", "\ud800"],
)
@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_hostile_names_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    top = tmp_path / "top"
    with pytest.raises(TreeError):
        unpack(top, entry("a", "directory"), entry(name, kind, target="a"))
    assert [path.name for path in tmp_path.iterdir()] == ["top"]
    assert set(seen(top)) <= {"a"}


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "self/../x", "./../x", "a/./../x", "\ud800"],
)
def test_a_symlink_may_not_lead_outside(tmp_path: Path, target: str) -> None:
    with pytest.raises(TreeError):
        unpack(
            tmp_path / "top",
            entry("self", "symlink", target="."),
            entry("l", "symlink", target=target),
        )


@pytest.mark.parametrize("target", ["b", "../b", "../../b", "./b/c", "../a/b/c", "..//./b"])
def test_a_symlink_may_lead_about_inside(tmp_path: Path, target: str) -> None:
    directories = entry("a", "directory"), entry("a/b", "directory")
    unpack(tmp_path, *directories, entry("a/b/l", "symlink", target=target))
    assert os.readlink(tmp_path / "a/b/l") == target  # noqa: PTH115 - as it is
    assert (tmp_path / "a/b/l").resolve().is_relative_to(tmp_path.resolve())


def test_links_that_each_stay_inside_do_not_together_lead_outside(tmp_path: Path) -> None:
    """By their names alone all of these stay inside; followed, they climb ever higher."""
    with pytest.raises(TreeError, match="leads outside"):
        unpack(
            tmp_path / "top",
            entry("s", "symlink", target="."),
            entry("up", "symlink", target="s/.."),
            entry("upper", "symlink", target="up/.."),
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_no_tree_of_links_leads_outside(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    top = tmp_path / "top"
    top.mkdir()
    words = ["a", "b", "c", "..", ".", "a/b", "../..", "b/..", "", "/"]
    for _ in range(60):
        name = "/".join(rng.choice("abc") for _ in range(rng.randrange(1, 4)))
        kind = rng.choice(["file", "directory", "symlink", "symlink"])
        target = "/".join(rng.choice(words) for _ in range(rng.randrange(1, 5)))
        try:
            unpack(top, entry(name, kind, b"x", target=target))
        except (TreeError, OSError):
            continue
    for path in top.rglob("*"):
        try:
            leads_to = path.resolve(strict=True)
        except (OSError, RuntimeError):
            continue  # it leads nowhere, or in a circle
        assert leads_to.is_relative_to(top.resolve()), (path, leads_to)
    assert [path.name for path in tmp_path.iterdir()] == ["top"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    top = tmp_path / "top"
    top.mkdir()
    (top / "dir").symlink_to(outside)
    (top / "file").symlink_to(outside / "file")
    with pytest.raises(TreeError, match="not a directory"):
        unpack(top, entry("dir/file", content=b"theirs"))
    unpack(top, entry("file", content=b"theirs"))
    assert (outside / "file").read_text() == "mine"
    assert (top / "file").read_bytes() == b"theirs"
    assert not (top / "file").is_symlink()


def test_a_file_does_not_replace_a_directory_nor_the_reverse(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "kept").touch()
    (tmp_path / "f").write_text("kept")
    with pytest.raises(IsADirectoryError):
        unpack(tmp_path, entry("d", content=b"x"))
    with pytest.raises(NotADirectoryError):
        unpack(tmp_path, entry("f", "directory"))
    assert (tmp_path / "d" / "kept").exists()
    assert (tmp_path / "f").read_text() == "kept"


def test_set_id_bits_are_dropped(tmp_path: Path) -> None:
    unpack(tmp_path, entry("f", mode=0o6755), entry("d", "directory", mode=0o7777))
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) & 0o7000 == 0


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "device"},
        {"kind": None},
        {"mode": "rwx"},
        {"mode": None},
        {"mode": [1]},
        {"mode": float("inf")},
        {"mtime": float("nan")},
        {"mtime": float("inf")},
        {"mtime": 1e300},
        {"mtime": "x"},
        {"name": 5},
        {"name": None},
        {"name": ["a"]},
        {"kind": "symlink", "target": 7},
    ],
    ids=str,
)
def test_a_header_of_wrong_types_is_refused(tmp_path: Path, header: dict[str, object]) -> None:
    fields: dict[str, Any] = {"name": "f", "kind": "file", **header}
    with pytest.raises(TreeError):
        unpack(tmp_path, entry(**fields))


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"5", b"{", b"\xff", b"[" * 60_000, b"{}", b'{"name":"a"}'], ids=repr
)
def test_what_is_no_header_is_refused(tmp_path: Path, header: bytes) -> None:
    data = struct.pack(">I", len(header)) + header if header else struct.pack(">I", 3)
    with pytest.raises(TreeError):
        trees.unpack(io.BytesIO(data), str(tmp_path), confined=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_cut_short_is_refused(tmp_path: Path, seed: int) -> None:
    whole = b"".join([entry("d", "directory"), entry("d/f", content=b"abc" * 99), bytes(4)])
    short = whole[: random.Random(seed).randrange(len(whole))]
    with pytest.raises(TreeError, match="ends in the middle"):
        trees.unpack(io.BytesIO(short), str(tmp_path), confined=True)


def test_sizes_are_counted_not_believed(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="larger than allowed"):
        unpack(tmp_path, struct.pack(">I", 2**31))
    header = entry("f")[:-4]
    with pytest.raises(TreeError, match="larger than allowed"):
        unpack(tmp_path, header + struct.pack(">I", 2**31))
    unpack(tmp_path, entry("f", content=bytes(100)), entry("g", content=bytes(100)), max_bytes=200)
    with pytest.raises(TooLarge, match="200 bytes"):
        unpack(
            tmp_path, entry("f", content=bytes(101)), entry("g", content=bytes(100)), max_bytes=200
        )
    names = [entry(str(number)) for number in range(4)]
    assert unpack(tmp_path, *names, max_entries=4) == 4
    with pytest.raises(TooLarge, match="3 files"):
        unpack(tmp_path, *names, max_entries=3)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    for bad in ("..", "x/y", "d"):
        with pytest.raises((TreeError, OSError)):
            unpack(tmp_path, entry("d", "directory"), entry("d/e", "directory"), entry(bad))
    assert len(list(Path("/dev/fd").iterdir())) == before
