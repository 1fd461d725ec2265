"""Files on their way into images and sandboxes: mounts, and blobs over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import secrets
import shutil
import tarfile
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from aiohttp import web
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.machines import Machine, Machines
from tests.emulators.modal.messages import Message
from tests.emulators.modal.wire import Methods, Work

_MIB = 1024 * 1024
_MAX_INLINE = 4 * _MIB


@dataclass
class Blob:
    """An upload over HTTP.

    Attributes:
        path: Its file; several parts are joined at the end.
        size: As it was announced.
        sha256: As it was announced, in hex.
        parts: The MD5 of each part that has arrived, in hex.
    """

    path: Path
    size: int
    sha256: str
    complete: bool = False
    parts: dict[int, str] = field(default_factory=dict[int, str])


class Uploads:
    """The stored files, each under its SHA-256, and the mounts made of them.

    Attributes:
        part: The size of the parts that a large blob is uploaded in, in bytes.
        large: From which size on a blob is uploaded in parts.
    """

    def __init__(self, machines: Machines) -> None:
        self.part = 64 * _MIB
        self.large = 1024 * _MIB
        self._machines = machines
        self._directory = Path(tempfile.mkdtemp(prefix="emulated-modal-"))
        self._mounts: dict[str, dict[str, tuple[str, int]]] = {}
        self._blobs: dict[str, Blob] = {}
        self._url = ""
        self._runner: web.AppRunner | None = None

    async def serve(self) -> None:
        """Listen for blobs, on a port of their own, as the real ones go to a bucket."""
        app = web.Application(client_max_size=0)
        app.router.add_put("/{blob}/{part}", self._put)
        app.router.add_post("/{blob}", self._complete)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def aclose(self) -> None:
        """Stop to listen, and remove all files."""
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def methods(self) -> Methods:
        """What the control plane answers by it."""
        return {
            "BlobCreate": Work("upload", self._create_blob),
            "MountBatchedCheckExistence": Work("index", self._check),
            "MountGetOrCreate": Work("index", self._mount),
            "MountPutFile": Work("upload", self._put_file),
        }

    def stored(self, mount_id: str) -> dict[str, tuple[Path, int]]:
        """The files of a mount: absolute path inside, to the file here and its mode.

        Raises:
            GRPCError: There is no such mount.
        """
        if mount_id not in self._mounts:
            raise GRPCError(Status.NOT_FOUND, f"Mount {mount_id} not found")
        files = self._mounts[mount_id]
        return {name: (self._path(sha256), mode) for name, (sha256, mode) in files.items()}

    async def put_mount(self, machine: Machine, mount_id: str) -> None:
        """Write the files of a mount into a machine."""
        await put_files(self._machines, machine, self.stored(mount_id))

    def _path(self, sha256: str) -> Path:
        return self._directory / f"file-{sha256}"

    async def _check(self, request: api.MountBatchedCheckExistenceRequest) -> Message:
        missing = [each for each in request.sha256_hex_hashes if not self._path(each).exists()]
        return api.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def _put_file(self, request: api.MountPutFileRequest) -> Message:
        kind = request.WhichOneof("data_oneof")
        if kind == "data_blob_id":
            blob = self._blobs.get(request.data_blob_id)
            if blob is None or not blob.complete or blob.sha256 != request.sha256_hex:
                raise GRPCError(Status.INVALID_ARGUMENT, "The blob is not what was announced")
            await asyncio.to_thread(shutil.move, blob.path, self._path(request.sha256_hex))
        elif kind == "data":
            if len(request.data) > _MAX_INLINE:
                raise GRPCError(Status.INVALID_ARGUMENT, "The file is too large to be inline")
            if hashlib.sha256(request.data).hexdigest() != request.sha256_hex:
                raise GRPCError(Status.INVALID_ARGUMENT, "The data has another hash")
            self._path(request.sha256_hex).write_bytes(request.data)
        exists = self._path(request.sha256_hex).exists()
        return api.MountPutFileResponse(exists=exists)

    async def _mount(self, request: api.MountGetOrCreateRequest) -> Message:
        if request.deployment_name:
            raise GRPCError(Status.NOT_FOUND, f"Mount {request.deployment_name!r} not found")
        missing = [each for each in request.files if not self._path(each.sha256_hex).exists()]
        if missing:
            raise GRPCError(Status.FAILED_PRECONDITION, f"{missing[0].filename} was not uploaded")
        mount_id = f"mo-{secrets.token_hex(11)}"
        self._mounts[mount_id] = {
            each.filename: (each.sha256_hex, each.mode or 0o644) for each in request.files
        }
        return api.MountGetOrCreateResponse(
            mount_id=mount_id, handle_metadata=api.MountHandleMetadata()
        )

    async def _create_blob(self, request: api.BlobCreateRequest) -> Message:
        blob_id = f"bl-{secrets.token_hex(11)}"
        self._blobs[blob_id] = Blob(
            self._directory / blob_id,
            request.content_length,
            base64.b64decode(request.content_sha256_base64).hex(),
        )
        reply = api.BlobCreateResponse(blob_id=blob_id, blob_ids=[blob_id])
        url = f"{self._url}/{blob_id}"
        if request.content_length < self.large:
            reply.upload_urls.items.append(f"{url}/0")
        else:
            parts = range(1, -(-request.content_length // self.part) + 1)
            reply.multiparts.items.append(
                api.MultiPartUpload(
                    part_length=self.part,
                    upload_urls=[f"{url}/{number}" for number in parts],
                    completion_url=url,
                )
            )
        return reply

    async def _put(self, request: web.Request) -> web.Response:
        blob, part = self._blobs.get(request.match_info["blob"]), int(request.match_info["part"])
        if blob is None:
            return web.Response(status=404, text="NoSuchKey")
        path = _part_path(blob, part)
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("wb") as file:
            async for data in request.content.iter_chunked(_MIB):
                digest.update(data)
                file.write(data)
        announced = request.headers.get("Content-MD5")
        if announced and base64.b64decode(announced) != digest.digest():
            return web.Response(
                status=400, text="The Content-MD5 you specified did not match what we received."
            )
        blob.parts[part] = digest.hexdigest()
        if part == 0:
            await self._finish(blob)
            if not blob.complete:
                return web.Response(status=400, text="The content is not what was announced")
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})

    async def _complete(self, request: web.Request) -> web.Response:
        blob = self._blobs.get(request.match_info["blob"])
        if blob is None:
            return web.Response(status=404, text="NoSuchUpload")
        await self._finish(blob)
        if not blob.complete:
            return web.Response(status=400, text="InvalidPart")
        joined = b"".join(bytes.fromhex(blob.parts[number]) for number in sorted(blob.parts))
        etag = hashlib.md5(joined, usedforsecurity=False).hexdigest()
        return web.Response(text=f"<ETag>{etag}-{len(blob.parts)}</ETag>")

    async def _finish(self, blob: Blob) -> None:
        blob.complete = await asyncio.to_thread(_join, blob)


def _part_path(blob: Blob, part: int) -> Path:
    return blob.path.with_name(f"{blob.path.name}.{part}")


def _join(blob: Blob) -> bool:
    digest, size = hashlib.sha256(), 0
    with blob.path.open("wb") as whole:
        for number in sorted(blob.parts):
            path = _part_path(blob, number)
            with path.open("rb") as part:
                while data := part.read(_MIB):
                    digest.update(data)
                    size += whole.write(data)
            path.unlink()
    return size == blob.size and digest.hexdigest() == blob.sha256


async def put_files(
    machines: Machines, machine: Machine, files: dict[str, tuple[Path, int]]
) -> None:
    """Write files of ours into a machine, owned by root; directories are made.

    Args:
        machines: What talks to the engine.
        machine: Where to.
        files: Absolute path inside to the file here and its mode.
    """
    with tempfile.TemporaryFile() as archive:
        await asyncio.to_thread(_pack, files, archive)
        archive.seek(0)
        await machines.call("put_archive", machine.id, "/", archive)


def _pack(files: dict[str, tuple[Path, int]], archive: IO[bytes]) -> None:
    def as_root(mode: int, entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mode = mode & 0o7777
        return entry

    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, (path, mode) in files.items():
            tar.add(os.fspath(path), name.lstrip("/"), filter=partial(as_root, mode))
