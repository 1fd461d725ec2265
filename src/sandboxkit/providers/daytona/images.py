"""Snapshots of our own: an image, a size and files, built at the service once and then kept."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Final

import anyio

from sandboxkit.errors import ImageError, SandboxError, SandboxNotFoundError
from sandboxkit.progress import Progress, report
from sandboxkit.providers.daytona.failures import PROVIDER, map_errors, status_of
from sandboxkit.providers.daytona.plan import Build
from sandboxkit.providers.daytona.v0 import Service, Snapshot

log = logging.getLogger(__name__)

_READY: Final = "active"
_ASLEEP: Final = "inactive"
_FAILED: Final = frozenset({"error", "build_failed"})
_WAIT_S: Final = 1800.0
_POLL_S: Final = 1.0


class Images:
    """What sandboxes start from."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._building: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def existing(self, name: str) -> Snapshot:
        """A snapshot of the account, awake.

        Raises:
            ImageError: There is none of this name, or it has failed.
        """
        found = await self._service.snapshot(name)
        if found is None:
            raise _image_error(f"Daytona has no snapshot {name!r} for this account")
        return await self._ready(found)

    async def built(self, build: Build) -> str:
        """The name of the snapshot for a build, which is made if it is not there yet.

        Cancelling leaves the build to the service, which finishes it for the next caller.

        Raises:
            ImageError: The image cannot be had, or the build failed.
        """
        async with self._building[build.name]:
            found = await self._service.snapshot(build.name)
            if found is not None and found.state in _FAILED:
                await self._service.remove_snapshot(build.name)
                found = None
            if found is None:
                await self._build(build)
            elif found.state != _READY:
                await self._ready(found)
        return build.name

    async def _build(self, build: Build) -> None:
        recipe = build.recipe
        step = f"build {recipe.image} at Daytona"
        lines = 0

        def said(text: str) -> None:
            nonlocal lines
            lines += 1
            log.debug("%s: %s", step, text)
            report(Progress(step, lines, unit="items"))

        report(Progress(step, 0, unit="items"))
        try:
            await self._service.build(build.name, recipe, said)
        except SandboxError as error:
            if status_of(error) == 409:  # somebody else has just begun the same
                await self.existing(build.name)
            elif type(error) in {SandboxError, SandboxNotFoundError}:
                await self._service.remove_snapshot(build.name)
                raise _image_error(f"{recipe.image} cannot be had: {error.message}") from error
            else:
                raise
        report(Progress(step, lines, unit="items", finished=True))

    async def _ready(self, found: Snapshot) -> Snapshot:
        """Wait until a snapshot can be used."""
        if found.state == _ASLEEP:
            await self._service.activate(found.name)
        url = self._service.client.access.url
        with map_errors("prepare", url), anyio.fail_after(_WAIT_S):
            while found.state != _READY:
                if found.state in _FAILED:
                    raise _image_error(f"the snapshot {found.name} has failed: {found.reason}")
                await anyio.sleep(_POLL_S)
                later = await self._service.snapshot(found.name)
                if later is None:
                    raise _image_error(f"the snapshot {found.name} was removed meanwhile")
                found = later
        return found


def _image_error(message: str) -> ImageError:
    return ImageError(message, op="prepare", provider=PROVIDER, retryable=False)
