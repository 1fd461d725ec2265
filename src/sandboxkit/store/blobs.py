"""Pieces of content by their digest: compressed, kept in a folder or a bucket, verified."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread
import zstandard
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from sandboxkit.errors import InvalidSpecError, StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

PIECE: Final = 4 * 1024 * 1024
"""Bytes of a piece at most."""

DEADLINE_S: Final = 120.0
"""Seconds for one piece."""

SWEEP_S: Final = 86_400.0
"""Seconds that a piece which no session has is left alone: a save may be under way."""

_KNOWN_S: Final = 3600.0
_RENEW_S: Final = 0.5 * SWEEP_S  # what is so old is put again, for the sweep of another program
_MOST_KNOWN: Final = 100_000
_REMOVED: Final = 1000  # by one request

_INLINE: Final = 64 * 1024
_WINDOW: Final = 1 << 27  # of memory, for what somebody else may have compressed


class Blobs:
    """Content-addressed: what is the same is there once.

    Args:
        place: A directory; or a URL such as `s3://bucket/path`, `gs://...`, `az://...`, with
            credentials where that service's own tools find them; or an `obstore` object.

    Raises:
        InvalidSpecError: It is none of these.
    """

    def __init__(self, place: str | Path | ObjectStore) -> None:
        self._place = place if isinstance(place, str | Path) else type(place).__name__
        self._made: ObjectStore | None = None if isinstance(place, str | Path) else place
        self._known: dict[str, float] = {}  # to be there, and when that was seen
        if isinstance(place, str) and "://" in place and not place.startswith("file://"):
            try:
                self._made = from_url(place)
            except (BaseError, ValueError) as error:
                raise InvalidSpecError(
                    f"the place for files cannot be {_without_query(place)!r}: {error}"
                ) from None
        elif isinstance(place, str):
            self._place = Path(place.removeprefix("file://"))

    def __repr__(self) -> str:
        return _without_query(str(self._place))

    async def put(self, content: bytes, digest: str | None = None) -> str:
        """Keep a piece.

        Args:
            content: At most `PIECE` bytes.
            digest: Its digest, where the caller has made it already.

        Returns:
            Its digest.

        Raises:
            StoreError: It could not be kept.
        """
        digest = digest or await digest_of(content)
        now = time.monotonic()
        if now - self._known.get(digest, -math.inf) < _KNOWN_S:
            return digest
        with self._mapped("keep a piece"):
            store = await self._opened()
            with anyio.fail_after(DEADLINE_S):
                if await _age_s(store, path_of(digest)) > _RENEW_S:
                    packed = await _apart(_pack, content)
                    await store.put_async(path_of(digest), packed, use_multipart=False)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[digest] = now
        return digest

    async def get(self, digest: str) -> bytes:
        """A piece, as it was.

        Raises:
            StoreError: It is missing, or is not what was kept (code `damaged`); or the place
                does not answer.
        """
        with self._mapped("read a piece"):
            store = await self._opened()
            with anyio.fail_after(DEADLINE_S):
                try:
                    got = await store.get_async(path_of(digest))
                except FileNotFoundError:
                    raise self._damaged(digest, "is missing") from None
                if got.meta["size"] > PIECE + PIECE // 8:
                    raise self._damaged(digest, f"has {got.meta['size']} bytes")
                packed = bytes(await got.bytes_async())
        content = await _apart(_unpack, packed, small=_INLINE // 16)
        if content is None or await digest_of(content) != digest:
            raise self._damaged(digest, "does not hold what was stored")
        return content

    async def sweep(self, wanted: Callable[[], Awaitable[set[str]]], *, older_s: float) -> int:
        """Remove pieces that nobody wants; how many.

        Args:
            wanted: The digests to keep, asked for once it is known what there is.
            older_s: Seconds that a piece is left alone after it was put there.
        """
        store = await self._opened()
        before = datetime.now(UTC) - timedelta(seconds=older_s)
        old: list[str] = []
        with self._mapped("list the pieces"):
            found = store.list(prefix="blobs")  # pyright: ignore[reportUnknownMemberType]
            async for some in found:
                old += [meta["path"] for meta in some if meta["last_modified"] <= before]
        keep = {path_of(digest) for digest in await wanted()}
        gone = [path for path in old if path not in keep]
        with self._mapped("remove pieces"):
            for at in range(0, len(gone), _REMOVED):
                with anyio.fail_after(DEADLINE_S):
                    await store.delete_async(gone[at : at + _REMOVED])
        self._known.clear()
        return len(gone)

    def _damaged(self, digest: str, what: str) -> StoreError:
        return StoreError(
            f"A piece of the stored files is damaged: {path_of(digest)} {what}.",
            code="damaged",
            retryable=False,
        )

    async def _opened(self) -> ObjectStore:
        if self._made is None:
            self._made = await anyio.to_thread.run_sync(_folder, Path(self._place))
        return self._made

    @contextlib.contextmanager
    def _mapped(self, what: str) -> Generator[None]:
        try:
            yield
        except TimeoutError as error:
            raise StoreError(
                f"The place for files took more than {DEADLINE_S:g} s to {what}.",
                code="unavailable",
                retryable=True,
            ) from error
        except (BaseError, OSError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"The place for files could not {what}: {error}", code="unavailable", retryable=True
            ) from error


def path_of(digest: str) -> str:
    """Where a piece lies."""
    return f"blobs/{digest[:2]}/{digest[2:]}"


async def digest_of(content: bytes) -> str:
    """The name of a piece: SHA-256, in hexadecimal."""
    return await _apart(_digest, content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def _apart(function: Callable[[bytes], T], content: bytes, *, small: int = _INLINE) -> T:
    """In a thread, unless it is not worth the trip."""
    if len(content) <= small:
        return function(content)
    return await anyio.to_thread.run_sync(function, content)


async def _age_s(store: ObjectStore, path: str) -> float:
    """Seconds since it was put there; endless for what is not there."""
    try:
        meta = await store.head_async(path)
    except FileNotFoundError:
        return math.inf
    return (datetime.now(UTC) - meta["last_modified"]).total_seconds()


def _pack(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(content)


def _unpack(packed: bytes) -> bytes | None:
    """What was packed; None for what cannot be, such as a bomb."""
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(BytesIO(packed))
    try:
        content = reader.read(PIECE + 1)
    except zstandard.ZstdError:
        return None
    return content if len(content) <= PIECE else None


def _folder(path: Path) -> ObjectStore:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LocalStore(prefix=path, mkdir=True)


def _without_query(url: str) -> str:
    return url.split("?", 1)[0]
