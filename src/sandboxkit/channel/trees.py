"""File trees between this machine and a channel, packed and unpacked in a thread."""

from __future__ import annotations

import io
import secrets
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from sandboxkit.channel.process import OutputStream
from sandboxkit.channel.remote import RemoteChannel
from sandboxkit.errors import SizeLimitError, UnsafePathError
from sandboxkit.guest import trees, wire

_BLOCK = 256 * 1024
_GATHER = 1024 * 1024  # bytes, or
_MOST_BLOCKS = 64


class _Into(io.RawIOBase):
    """A file object in a worker thread whose writes go into a channel."""

    def __init__(self, channel: RemoteChannel) -> None:
        self._channel = channel

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        block = bytes(cast("bytes", data))
        anyio.from_thread.run(self._channel.write, wire.STDIN, block)
        return len(block)


class _From(io.RawIOBase):
    """A file object in a worker thread whose reads come from a channel."""

    def __init__(self, channel: RemoteChannel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        try:
            data = anyio.from_thread.run(self._channel.receive, wire.STDOUT, len(view))
        except anyio.EndOfStream:
            return 0
        view[: len(data)] = data
        return len(data)


async def send(local: Path, channel: RemoteChannel) -> list[str]:
    """Pack the directory `local` into a channel; the names that were left out."""

    def pack() -> list[str]:
        out = io.BufferedWriter(_Into(channel), _BLOCK)
        return trees.pack(str(local), cast("BinaryIO", out))

    skipped = await anyio.to_thread.run_sync(pack)
    channel.write_eof(wire.STDIN)
    return skipped


async def fetch(channel: RemoteChannel, local: Path, *, max_bytes: int, max_entries: int) -> None:
    """Unpack what a channel sends into the directory `local`."""

    def unpack() -> None:
        source = cast("BinaryIO", io.BufferedReader(_From(channel), _BLOCK))
        try:
            trees.unpack(
                source, str(local), confined=True, max_bytes=max_bytes, max_entries=max_entries
            )
        except trees.TooLarge as error:
            raise SizeLimitError(f"the download has {error}", op="files.download") from None
        except (trees.TreeError, ValueError) as error:
            message = f"the download was refused: {error}"
            raise UnsafePathError(message, op="files.download") from None

    await anyio.to_thread.run_sync(unpack)


async def save(source: OutputStream, local: Path, max_bytes: int, *, mode: int) -> None:
    """Write one file: `local` has its old content or all of the new one."""
    parent = anyio.Path(local.parent)
    await parent.mkdir(parents=True, exist_ok=True)
    beside = anyio.Path(local.with_name(f".{local.name}.{secrets.token_hex(4)}"))
    received = 0
    try:
        async with await anyio.open_file(beside, "xb") as target:
            # Gathered, because each write is a trip to a thread.
            gathered: list[bytes] = []
            async for block in source:
                received += len(block)
                if received > max_bytes:
                    raise SizeLimitError(
                        f"the file has more than {max_bytes} bytes", op="files.download"
                    )
                gathered.append(block)
                if sum(map(len, gathered)) >= _GATHER or len(gathered) >= _MOST_BLOCKS:
                    await target.writelines(gathered)
                    gathered = []
            await target.writelines(gathered)
        await beside.chmod(mode)
        await beside.replace(local)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await beside.unlink(missing_ok=True)
        raise


async def mode_of(local: Path) -> int:
    """The permission bits of a regular file.

    Raises:
        UnsafePathError: It is not a regular file.
    """
    status = await anyio.Path(local).stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{local} is not a regular file", op="files.upload")
    return stat.S_IMODE(status.st_mode) & 0o777


async def blocks(local: Path) -> AsyncIterator[bytes]:
    """The content of a file on this machine."""
    async with await anyio.open_file(local, "rb") as source:
        while block := await source.read(4 * _BLOCK):
            yield block
