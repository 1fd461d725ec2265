"""Images: built layer by layer in containers, committed, kept by their definition."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.machines import Machine, Machines
from tests.emulators.modal.dockerfile import Builder, BuildFailed, Layer
from tests.emulators.modal.messages import Message, nothing
from tests.emulators.modal.uploads import Uploads
from tests.emulators.modal.wire import Methods, Output, Spawn, Work

Result = api.GenericResult
_SUCCESS = Result.GENERIC_STATUS_SUCCESS


@dataclass(eq=False)
class Image:
    """One image.

    Attributes:
        id: Starts with `im-`.
        layer: What it has, and what its programs get.
        archive: What a snapshot of a directory has instead.
        log: What its build has said so far.
        result: How its build ended.
    """

    id: str
    layer: Layer = field(default_factory=Layer)
    archive: Path | None = None
    log: list[str] = field(default_factory=list[str])
    result: api.GenericResult | None = None
    built: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, status: api.GenericResult.GenericStatus.ValueType, why: str = "") -> None:
        """Set how its build ended."""
        self.result = Result(status=status, exception=why)
        self.built.set()


class Running(Protocol):
    """What a snapshot takes over from a sandbox."""

    env: dict[str, str]

    @property
    def cwd(self) -> str: ...


class Images:
    """The images of the account."""

    def __init__(self, machines: Machines, uploads: Uploads, spawn: Spawn) -> None:
        self.uploads = uploads
        self.all: dict[str, Image] = {}
        self._by_definition: dict[bytes, Image] = {}
        self._machines, self._spawn = machines, spawn
        self._committed: list[str] = []
        self._directory = Path(tempfile.mkdtemp(prefix="emulated-modal-"))

    def methods(self) -> Methods:
        """What the control plane answers by it."""
        return {
            "ImageDelete": Work("delete_image", self._delete),
            "ImageFromId": Work("image", self._from_id),
            "ImageGetOrCreate": Work("build", self._get_or_create),
            "ImageJoinStreaming": Output("build_log", self._join),
        }

    def usable(self, image_id: str) -> Image:
        """An image that a sandbox can start from.

        Raises:
            GRPCError: There is none of this id, or it was not built.
        """
        image = self._get(image_id)
        if image.result is None or image.result.status != _SUCCESS:
            raise GRPCError(Status.FAILED_PRECONDITION, f"Image {image_id} is not built")
        if image.archive is not None:
            raise GRPCError(Status.FAILED_PRECONDITION, f"{image_id} is of a directory only")
        return image

    def _get(self, image_id: str) -> Image:
        image = self.all.get(image_id)
        if image is None:
            raise GRPCError(Status.NOT_FOUND, f"Image {image_id} not found")
        return image

    async def aclose(self) -> None:
        """Remove what was committed, and all files."""
        for docker_id in reversed(self._committed):  # children first
            await self._machines.remove_image(docker_id)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def _from_id(self, request: api.ImageFromIdRequest) -> Message:
        return api.ImageFromIdResponse(image_id=self._get(request.image_id).id)

    async def _delete(self, request: api.ImageDeleteRequest) -> Message:
        image = self._get(request.image_id)
        del self.all[image.id]  # its layers stay, as at Modal, until the emulator stops
        for key in [key for key, built in self._by_definition.items() if built is image]:
            del self._by_definition[key]
        return nothing()

    async def _get_or_create(self, request: api.ImageGetOrCreateRequest) -> Message:
        _check(request)
        key = request.builder_version.encode() + request.image.SerializeToString(deterministic=True)
        image = self._by_definition.get(key)
        failed = image is not None and image.result is not None and image.result.status != _SUCCESS
        if image is None or failed or request.force_build or request.ignore_cache:
            bases = {
                each.docker_tag: self.usable(each.image_id).layer
                for each in request.image.base_images
            }
            image = self._new()
            self._by_definition[key] = image
            if request.namespace == api.DEPLOYMENT_NAMESPACE_GLOBAL:
                image.end(_SUCCESS)  # Modal has these built already
            else:
                self._spawn(self._build(image, request.image, bases))
        return api.ImageGetOrCreateResponse(
            image_id=image.id, result=image.result, metadata=_metadata(image)
        )

    def _new(self) -> Image:
        image = Image(f"im-{secrets.token_hex(11)}")
        self.all[image.id] = image
        return image

    async def _build(self, image: Image, definition: api.Image, bases: dict[str, Layer]) -> None:
        builder = Builder(self._machines, self.uploads, definition, image.log.append)
        try:
            layer = await builder.build(bases)
        except BuildFailed as error:
            image.log.append(f"{error}\n")
            image.end(Result.GENERIC_STATUS_FAILURE, str(error))
        except BaseException:
            image.end(Result.GENERIC_STATUS_TERMINATED, "the builder was shut down")
            raise
        else:
            if layer.docker_id not in {None, *(base.docker_id for base in bases.values())}:
                self._committed.append(str(layer.docker_id))
            image.layer = layer
            image.end(_SUCCESS)

    async def _join(self, request: api.ImageJoinStreamingRequest) -> AsyncGenerator[Message]:
        image = self._get(request.image_id)
        told = int(request.last_entry_id or 0)
        ended = asyncio.ensure_future(image.built.wait())
        try:
            async with asyncio.timeout(request.timeout or None):
                while True:
                    for line in image.log[told:]:
                        told += 1
                        log = api.TaskLogs(data=line, file_descriptor=api.FILE_DESCRIPTOR_STDOUT)
                        yield api.ImageJoinStreamingResponse(task_logs=[log], entry_id=str(told))
                    if image.result is not None and told == len(image.log):
                        break
                    await asyncio.wait([ended], timeout=0.1)
        except TimeoutError:
            return  # the client asks again
        finally:
            ended.cancel()
        yield api.ImageJoinStreamingResponse(
            result=image.result, metadata=_metadata(image), eof=True
        )

    async def snapshot(self, machine: Machine, sandbox: Running) -> str:
        """The files of a sandbox as an image."""
        docker_id = await machine.commit()
        self._committed.append(docker_id)
        image = self._new()
        image.layer = Layer(docker_id, dict(sandbox.env), sandbox.cwd)
        image.end(_SUCCESS)
        return image.id

    async def snapshot_directory(self, machine: Machine, path: str) -> str:
        """The files below a directory as an image that can be mounted."""
        code, packed, said = await machine.run(["tar", "-c", "-C", path, "."])
        if code != 0:
            raise GRPCError(Status.INVALID_ARGUMENT, f"No such directory: {path}: {said.decode()}")
        image = self._new()
        image.archive = self._directory / image.id
        image.archive.write_bytes(packed)
        image.end(_SUCCESS)
        return image.id

    async def mount(self, machine: Machine, path: str, image_id: str) -> None:
        """Show the files of an image at a path; what was there is hidden.

        A container may not mount, so what is hidden is moved away.
        """
        packed = await self._packed(image_id) if image_id else b""
        hide = f'mkdir -p "$1" "{_HIDDEN}$1" && rmdir "{_HIDDEN}$1" && mv "$1" "{_HIDDEN}$1"'
        await _sh(machine, f'{hide} && mkdir "$1"', path)
        if packed:
            code, _, said = await machine.run(["tar", "-x", "-C", path], stdin=packed)
            if code != 0:
                raise GRPCError(Status.INTERNAL, said.decode(errors="replace"))

    async def unmount(self, machine: Machine, path: str) -> None:
        """Show again what was at a path before."""
        await _sh(machine, f'rm -rf "$1" && mv "{_HIDDEN}$1" "$1"', path)

    async def _packed(self, image_id: str) -> bytes:
        image = self._get(image_id)
        if image.archive is not None:
            return image.archive.read_bytes()
        self.usable(image_id)
        machine = await self._machines.create(image=image.layer.docker_id)
        try:
            _, packed, _ = await machine.run(["tar", "-c", "-C", "/", "--one-file-system", "."])
        finally:
            await machine.remove()
        return packed


_HIDDEN = "/.hidden-by-mounts"


async def _sh(machine: Machine, script: str, path: str) -> None:
    code, _, said = await machine.run(["sh", "-c", script, "sh", path])
    if code != 0:
        raise GRPCError(Status.FAILED_PRECONDITION, said.decode(errors="replace").strip())


def _check(request: api.ImageGetOrCreateRequest) -> None:
    image = request.image
    if request.build_function_id or image.volume_mounts or image.secret_ids:
        raise GRPCError(Status.UNIMPLEMENTED, "build functions, volumes and secrets of images")
    if not request.app_id or not request.builder_version:
        raise GRPCError(Status.INVALID_ARGUMENT, "app_id and builder_version are required")
    if not image.dockerfile_commands:
        raise GRPCError(Status.INVALID_ARGUMENT, "dockerfile_commands are required")


def _metadata(image: Image) -> api.ImageMetadata:
    return api.ImageMetadata(workdir=image.layer.workdir, image_builder_version="2025.06")
