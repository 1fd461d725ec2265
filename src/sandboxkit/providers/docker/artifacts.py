"""Files from the host as read-only volumes: one per version, filled once, for all.

A volume cannot be renamed, and one that is being filled must never be seen. So the
content goes into a volume of a random name, and is *published* when it is whole, by
creating the volume of the well-known name with a label that points there. The engine
gives that name to the first who asks: everybody uses that one's content, and what was
filled in vain, or half, is removed.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath
from typing import Final

import anyio
from anyio import to_thread

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import InvalidSpecError, SandboxError, UnsupportedError
from sandboxkit.providers.docker.api import Api, Json, nested
from sandboxkit.providers.docker.engine import Engine
from sandboxkit.providers.docker.failures import status_of
from sandboxkit.providers.docker.images import Image
from sandboxkit.providers.docker.upload import CACHE_LABEL, Upload, size_of
from sandboxkit.spec import Artifact

log = logging.getLogger(__name__)

CONTENT_LABEL: Final = "sandboxkit.content"  # the volume that a published name means
FILL_LABEL: Final = "sandboxkit.fills"  # what an unpublished volume is meant for
_CLEAN_S: Final = 60.0
_TRIES: Final = 50
_STALE_S: Final = 3600.0  # no fill takes longer: its process has died
_MACHINES: Final = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}


def volume_name(artifact: Artifact) -> str:
    """The well-known name of an artifact's volume."""
    return f"sandboxkit-{artifact.name}-{artifact.version}-{artifact.platform}"


def check(artifacts: tuple[Artifact, ...], image: Image) -> None:
    """Check what can be known before anything is made.

    Raises:
        UnsupportedError: An artifact is for another platform than the image.
        InvalidSpecError: Two artifacts want the same directory.
    """
    system, _, machine = image.platform.partition("/")
    seen: set[str] = set()
    for artifact in artifacts:
        its_system, its_machine, *_ = (*artifact.platform.split("-"), "")
        if (its_system, _MACHINES.get(its_machine, its_machine)) != (system, machine):
            raise UnsupportedError(
                f"The artifact {artifact.name} is for {artifact.platform}, but the image "
                f"{image.name} is {image.platform}. Use an image, or the file, for the same "
                "platform.",
                op="create",
                provider="docker",
            )
        directory = _directory(artifact)
        if directory in seen:
            raise InvalidSpecError(
                f"artifacts: two of them are in {directory}. Give each a directory of its own.",
                provider="docker",
            )
        seen.add(directory)


class Artifacts:
    """The artifact volumes of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._filling = anyio.Lock()

    async def volumes(self, artifacts: tuple[Artifact, ...], image: Image) -> dict[str, str]:
        """The volume for each artifact's directory; filled where that was not done yet.

        Args:
            artifacts: Checked by `check`.
            image: Any image: filling needs a container, which is never started.
        """
        found: dict[str, str] = {}
        for artifact in artifacts:
            volume = await self._published(artifact)
            if volume is None:
                async with self._filling:
                    volume = await self._published(artifact) or await self._fill(artifact, image)
            found[_directory(artifact)] = volume
        return found

    async def _published(self, artifact: Artifact) -> str | None:
        """The content that the well-known name points to, if both are there."""
        name = volume_name(artifact)
        pointer = await self._inspect(name)
        content = nested(pointer, "Labels").get(CONTENT_LABEL)
        if content is not None and await self._inspect(content) is not None:
            return str(content)
        if pointer is not None:  # someone removed the content alone
            await self._remove_volume(name)
        return None

    async def _fill(self, artifact: Artifact, image: Image) -> str:
        await to_thread.run_sync(size_of, artifact)  # before anything is made
        await self._sweep(volume_name(artifact))
        name = f"{volume_name(artifact)}-{secrets.token_hex(6)}"
        labels = {CACHE_LABEL: "artifact", FILL_LABEL: volume_name(artifact)}
        filled = False
        try:
            made = self._engine.call(
                "artifact.fill", lambda api: api.create_volume(name, labels=labels)
            )
            await run_to_end(made, deadline_s=_CLEAN_S)  # never made after it was removed
            await self._engine.work("artifact.fill", Upload(artifact, name, image))
            filled = True
        finally:
            # Not to be cut off in the middle: what is published must not be removed.
            volume = await run_to_end(self._finish(artifact, name, filled), deadline_s=_CLEAN_S)
        return volume

    async def _finish(self, artifact: Artifact, name: str, filled: bool) -> str:  # noqa: FBT001
        published = await self._publish(artifact, name) if filled else ""
        await self._clean(name, keep_volume=published == name)
        return published

    async def _publish(self, artifact: Artifact, content: str) -> str:
        labels = {CACHE_LABEL: "artifact", CONTENT_LABEL: content}
        made = await self._engine.call(
            "artifact.publish",
            lambda api: api.create_volume(volume_name(artifact), labels=labels),
        )
        return str(nested(made, "Labels").get(CONTENT_LABEL, content))

    async def _clean(self, name: str, *, keep_volume: bool) -> None:
        """Remove the filling container, and the volume if it was filled in vain."""
        for _ in range(_TRIES):
            with contextlib.suppress(SandboxError):
                await self._engine.call("artifact.clean", partial(_remove_container, name=name))
            if keep_volume or await self._remove_volume(name):
                return
            await anyio.sleep(0.1)  # the upload that was cut off is just ending
        log.warning("the volume %s is in use and stays until a later fill removes it", name)

    async def _sweep(self, purpose: str) -> None:
        """Remove what a process that died had begun to fill: nothing is published now."""
        wanted = {"label": f"{FILL_LABEL}={purpose}"}
        listed = await self._engine.call("artifact.sweep", lambda api: api.volumes(filters=wanted))
        found = listed.get("Volumes") or ()
        now = (await self._engine.clock()).timestamp() if found else 0.0
        for volume in found:
            name: str = volume["Name"]
            made = datetime.fromisoformat(volume["CreatedAt"]).timestamp()
            if now - made > _STALE_S:
                with contextlib.suppress(SandboxError):
                    await self._engine.call("artifact.sweep", partial(_remove_container, name=name))
                await self._remove_volume(name)

    async def _inspect(self, name: str) -> Json | None:
        try:
            return await self._engine.call("artifact.inspect", lambda api: api.inspect_volume(name))
        except SandboxError as error:
            if status_of(error) == 404:
                return None
            raise

    async def _remove_volume(self, name: str) -> bool:
        """Whether it is gone; a container may still hold it."""
        try:
            await self._engine.call("artifact.remove", lambda api: api.remove_volume(name))
        except SandboxError as error:
            if status_of(error) == 409:
                return False
            if status_of(error) != 404:
                raise
        return True


def _remove_container(api: Api, name: str) -> None:
    api.remove_container(name, force=True, v=True)


def _directory(artifact: Artifact) -> str:
    return str(PurePosixPath(artifact.target).parent)
