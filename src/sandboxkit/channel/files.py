"""Files in the sandbox: read, written, listed, and whole trees in both directions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import anyio

from sandboxkit.channel import trees
from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.process import InputStream, OutputStream
from sandboxkit.channel.remote import RemoteChannel, Sink
from sandboxkit.errors import (
    InvalidSpecError,
    PathNotDirectoryError,
    PathNotFoundError,
    ProtocolError,
    SizeLimitError,
    UnsafePathError,
    file_error,
)
from sandboxkit.guest import wire

RemotePath = str | PurePosixPath

READ_LIMIT = 100 * 1024 * 1024
"""Bytes that `read` takes at most, by default: they are held in memory."""

DOWNLOAD_LIMIT = 4 * 1024**3
"""Bytes that `download` takes at most, by default."""

ENTRY_LIMIT = 1_000_000
"""Files and directories that `download` takes at most, by default."""

LIST_LIMIT = 256 * 1024**2
"""Bytes of description that `list` takes at most."""

_KINDS = ("file", "directory", "symlink", "other")
_INFO_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "kind": (str,),
    "size": (int,),
    "mode": (int,),
    "mtime": (int, float),
    "uid": (int,),
    "gid": (int,),
    "target": (str, type(None)),
}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What stands at a path.

    Attributes:
        name: The last part of its path. A name that is not UTF-8 is kept by
            Python's surrogateescape, and can be given back as it is.
        kind: `file`, `directory`, `symlink` or `other`.
        size: Bytes.
        mode: Permission bits.
        mtime: Seconds since the epoch, on the sandbox's clock.
        uid: The owner.
        gid: The group.
        target: Where a symlink points to.
    """

    name: str
    kind: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: int
    mtime: float
    uid: int
    gid: int
    target: str | None = None


class Files:
    """The files of a sandbox, as `sandbox.files`.

    A relative path starts at the work directory. Everything is done as the
    sandbox's user (or `user`), inside the sandbox, so that no link planted there
    leads anywhere else. Only regular files are read and written.

    Every method raises a `FileError` that fits (`PathNotFoundError`,
    `PathPermissionError`, ...), and `SandboxError` if the sandbox is lost.
    Cancelling one ends it in the sandbox as well.
    """

    def __init__(self, client: Callable[[], GuestClient], *, user: str | None = None) -> None:
        self._client = client
        self._user = user

    async def read(self, path: RemotePath, *, max_bytes: int = READ_LIMIT) -> bytes:
        """The whole file.

        Raises:
            SizeLimitError: It has more than `max_bytes`.
        """
        kept = _Kept(max_bytes)
        await self._run(self._request("read", path, limit=max_bytes + 1), sink=kept)
        if kept.too_much:
            raise SizeLimitError(
                f"{path} has more than {max_bytes} bytes; raise max_bytes, or use open()",
                op="files.read",
            )
        return bytes(kept.content)

    async def read_text(
        self, path: RemotePath, *, encoding: str = "utf-8", max_bytes: int = READ_LIMIT
    ) -> str:
        """The whole file as text; `UnicodeDecodeError` where it is not."""
        return (await self.read(path, max_bytes=max_bytes)).decode(encoding)

    async def write(
        self,
        path: RemotePath,
        data: bytes | str,
        *,
        mode: int | None = None,
        append: bool = False,
        exclusive: bool = False,
        parents: bool = True,
    ) -> None:
        """Write a file: readers see its old content or all of the new one.

        Args:
            path: Where; a symlink is followed.
            data: Text is written as UTF-8.
            mode: Permission bits; None keeps those of a file that exists.
            append: Add to the end, in place, instead.
            exclusive: Refuse to replace anything, with `PathExistsError`.
            parents: Make missing directories.
        """
        content = data.encode() if isinstance(data, str) else data
        request = self._request(
            "write", path, mode=mode, append=append, exclusive=exclusive, parents=parents
        )
        await self._run(request, stdin=content)

    @contextlib.asynccontextmanager
    async def open_read(
        self, path: RemotePath, *, offset: int = 0, max_bytes: int | None = None
    ) -> AsyncGenerator[OutputStream]:
        """Read a file of any size as a stream, from `offset`, no faster than it is taken."""
        request = self._request("read", path, offset=offset, limit=max_bytes)
        channel = self._open(request, None)
        try:
            yield _Content(channel, wire.STDOUT)
            if channel.ended(wire.STDOUT):
                await _succeeded(channel)
        finally:
            channel.close()

    @contextlib.asynccontextmanager
    async def open_write(
        self, path: RemotePath, *, mode: int | None = None, parents: bool = True
    ) -> AsyncGenerator[InputStream]:
        """Write a file of any size as a stream.

        The file appears, or changes, when the block is left; if it is left by an
        exception, nothing does.
        """
        channel = self._open(self._request("write", path, mode=mode, parents=parents), None)
        try:
            yield InputStream(channel)
            channel.write_eof(wire.STDIN)
            await _succeeded(channel)
        finally:
            channel.close()

    async def stat(self, path: RemotePath, *, follow: bool = True) -> FileInfo:
        """What stands at `path`; with `follow`, at the end of its symlinks."""
        return _info(await self._run(self._request("stat", path, follow=follow)))

    async def exists(self, path: RemotePath) -> bool:
        """Whether anything stands at `path`; a dangling symlink does not count."""
        try:
            await self.stat(path)
        except (PathNotFoundError, PathNotDirectoryError):
            return False
        return True

    async def list(self, path: RemotePath = ".") -> list[FileInfo]:
        """The entries of a directory, by name; symlinks are not followed.

        Raises:
            SizeLimitError: Their description has more than 256 MiB, about a million entries.
        """
        kept = _Kept(LIST_LIMIT)
        await self._run(self._request("list", path), sink=kept)
        if kept.too_much:
            raise SizeLimitError(f"{path} has too many entries to list", op="files.list")
        try:
            entries = [_info(json.loads(line)) for line in kept.content.splitlines()]
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"the guest sent a list that is none: {error}") from error
        return sorted(entries, key=lambda entry: entry.name)

    async def make_dir(
        self, path: RemotePath, *, parents: bool = True, exist_ok: bool = True
    ) -> None:
        """Make a directory."""
        await self._run(self._request("make_dir", path, parents=parents, exist_ok=exist_ok))

    async def remove(
        self, path: RemotePath, *, recursive: bool = False, missing_ok: bool = False
    ) -> None:
        """Remove a file, a symlink, or a directory (with all below it if `recursive`)."""
        await self._run(self._request("remove", path, recursive=recursive, missing_ok=missing_ok))

    async def move(
        self, source: RemotePath, target: RemotePath, *, overwrite: bool = False
    ) -> None:
        """Rename or move; replaces a file at `target` only if `overwrite`."""
        await self._run(self._request("move", source, target=_plain(target), overwrite=overwrite))

    async def upload(self, local: str | Path, remote: RemotePath) -> None:
        """Copy a file, or a directory with all below it, into the sandbox.

        Permission bits, times and symlinks (as they are) are kept; owners are not.

        Raises:
            UnsafePathError: The tree holds a device, a FIFO or a socket.
            FileNotFoundError: There is nothing at `local`.
        """
        local = Path(local)
        if not await anyio.Path(local).is_dir():
            async with self.open_write(remote, mode=await trees.mode_of(local)) as target:
                async for block in trees.blocks(local):
                    await target.write(block)
            return
        channel = self._open(self._request("unpack", remote), None)
        try:
            skipped = await trees.send(local, channel)
            await _succeeded(channel)
        finally:
            channel.close()
        if skipped:
            raise UnsafePathError(
                f"left out of the upload, as neither file, directory nor symlink: "
                f"{', '.join(skipped[:5])}",
                op="files.upload",
            )

    async def unpack(self, remote: RemotePath, tree: AsyncIterator[bytes]) -> None:
        """Write a tree that comes as a stream, in the format of `sandboxkit.guest.trees`.

        It is checked in the sandbox, and nothing of it touches this machine's disk.

        Raises:
            UnsafePathError: A name leads outside.
        """
        channel = self._open(self._request("unpack", remote), None)
        try:
            async for block in tree:
                await channel.write(wire.STDIN, block)
            channel.write_eof(wire.STDIN)
            await _succeeded(channel)
        finally:
            channel.close()

    async def download(
        self,
        remote: RemotePath,
        local: str | Path,
        *,
        max_bytes: int = DOWNLOAD_LIMIT,
        max_entries: int = ENTRY_LIMIT,
    ) -> Path:
        """Copy a file, or a directory with all below it, out of the sandbox.

        What the sandbox sends is not trusted: names and symlinks that lead out of
        `local`, and more than the limits, are refused; devices, FIFOs and sockets
        are left out; setuid bits and owners are dropped.

        Args:
            remote: The file or directory.
            local: The path it gets on this machine; a directory is merged into one
                that exists.
            max_bytes: Bytes of content, counted as they come.
            max_entries: Files and directories.

        Returns:
            `local`.

        Raises:
            SizeLimitError: More than the limits; what was written so far stays.
            UnsafePathError: A name or symlink leads outside.
        """
        local = Path(local)
        found = await self.stat(remote)
        if found.kind != "directory":
            async with self.open_read(remote, max_bytes=max_bytes + 1) as source:
                await trees.save(source, local, max_bytes, mode=found.mode & 0o777)
            return local
        channel = self._open(self._request("pack", remote), None)
        try:
            await trees.fetch(channel, local, max_bytes=max_bytes, max_entries=max_entries)
            await _succeeded(channel)
        finally:
            channel.close()
        return local

    def _request(self, do: str, path: RemotePath, **rest: object) -> dict[str, Any]:
        return {"op": "file", "do": do, "path": _plain(path), "user": self._user, **rest}

    def _open(self, request: Mapping[str, Any], sink: Sink | None) -> RemoteChannel:
        return self._client().channel(
            request, inputs=(wire.STDIN,), outputs=(wire.STDOUT,), sink=sink
        )

    async def _run(
        self, request: Mapping[str, Any], *, stdin: bytes = b"", sink: Sink | None = None
    ) -> dict[str, Any]:
        channel = self._open(request, sink)
        try:
            await channel.write(wire.STDIN, stdin)
            channel.write_eof(wire.STDIN)
            done = await _succeeded(channel)
            if sink is not None:
                await channel.until(lambda: channel.ended(wire.STDOUT))
            return dict(done)
        finally:
            channel.close()


class _Content(OutputStream):
    """The content of a file: a read that failed does not look like the end of the file."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            return await super().receive(max_bytes)
        except anyio.EndOfStream:
            await _succeeded(self._channel)
            raise


class _Kept:
    """A sink that keeps so much and drops the rest, whatever the guest was asked for."""

    def __init__(self, limit: int) -> None:
        self.content = bytearray()
        self.too_much = False
        self._limit = limit

    def __call__(self, _stream: int, data: bytes) -> None:
        self.too_much = self.too_much or len(self.content) + len(data) > self._limit
        if not self.too_much:
            self.content += data


def _info(value: object) -> FileInfo:
    """What the guest says of a file, checked."""
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    known = {name: fields.get(name) for name in _INFO_TYPES}
    fits = all(isinstance(known[name], kinds) for name, kinds in _INFO_TYPES.items())
    if not fits or known["kind"] not in _KINDS or "/" in str(known["name"]):
        raise ProtocolError(f"the guest sent {str(fields)[:200]} as the description of a file")
    return FileInfo(**cast("dict[str, Any]", known))


async def _succeeded(channel: RemoteChannel) -> Mapping[str, Any]:
    """Wait for the end; the result, or the `FileError` that fits."""
    done = await channel.finished()
    error = channel.error
    if error is None:
        return done
    if error.code == "unsafe_path":
        raise UnsafePathError(error.message, op="files")
    raise file_error(error.errno, error.message, op="files")


def _plain(path: RemotePath) -> str:
    text = str(path)
    if not text or "\0" in text:
        raise InvalidSpecError(f"a path must not be empty or hold NUL: {text!r}")
    return text
