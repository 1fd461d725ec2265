"""Pieces of content in a folder and in a bucket of a real S3 server: kept, verified, refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import zstandard

from sandboxkit.errors import InvalidSpecError, StoreError
from sandboxkit.store.blobs import PIECE, Blobs, digest_of, path_of
from tests.store.s3 import S3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    if find_spec("moto") is None:
        pytest.skip("no S3 server is installed: pip install 'moto[server]'")
    server = S3()
    yield server
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str | Path:
    if request.param == "folder":
        return tmp_path / "new" / "files"
    server: S3 = request.getfixturevalue("s3")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return f"{server.url}/{tmp_path.name}"


CONTENTS = [b"", b"x", b"the same\n" * 1000, os.urandom(PIECE), bytes(PIECE)]


async def test_what_is_kept_comes_back(place: str | Path) -> None:
    digests = [await Blobs(place).put(content) for content in CONTENTS]
    assert digests == [await digest_of(content) for content in CONTENTS]
    another = Blobs(place)
    for digest, content in zip(digests, CONTENTS, strict=True):
        assert await another.put(content) == digest
        assert await another.get(digest) == content


async def test_what_is_missing_is_named(place: str | Path) -> None:
    gone = await digest_of(b"never kept")
    with pytest.raises(StoreError, match=f"{path_of(gone)} is missing") as raised:
        await Blobs(place).get(gone)
    assert raised.value.code == "damaged"


def damages() -> list[bytes]:
    pack = zstandard.ZstdCompressor().compress
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 30))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 30))
    return [b"", b"no frame", pack(b"other"), pack(b"content")[:-1], bomb, unsized, bytes(6 << 20)]


async def test_damage_and_bombs_are_found(tmp_path: Path) -> None:
    digest = await Blobs(tmp_path).put(b"content")
    file = tmp_path / path_of(digest)
    assert await Blobs(tmp_path).get(digest) == b"content"
    for damage in damages():
        file.write_bytes(damage)
        with pytest.raises(StoreError) as raised:
            await Blobs(tmp_path).get(digest)
        assert raised.value.code == "damaged", damage[:20]


async def test_what_nobody_wants_is_swept(place: str | Path) -> None:
    blobs = Blobs(place)
    kept, swept = [await blobs.put(content) for content in (b"one", b"two")]

    async def wanted() -> set[str]:
        return {kept}

    assert await blobs.sweep(wanted, older_s=3600) == 0
    assert await blobs.sweep(wanted, older_s=0) == 1
    assert await blobs.get(kept) == b"one"
    with pytest.raises(StoreError, match="is missing"):
        await blobs.get(swept)
    assert await blobs.put(b"two") == swept
    assert await blobs.get(swept) == b"two"


async def test_the_folder_is_its_owner_s_alone(tmp_path: Path) -> None:
    await Blobs(tmp_path / "new").put(b"x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


async def test_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3) -> None:
    with pytest.raises(InvalidSpecError, match="cannot be 'ftp://x/y'"):
        Blobs("ftp://x/y?key=canary")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="could not keep a piece"):
        await Blobs(tmp_path / "file").put(b"x")
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="could not keep a piece") as refused:
        await Blobs("s3://no-such-bucket/x").put(b"x")
    assert "canary" not in str(refused.value)
