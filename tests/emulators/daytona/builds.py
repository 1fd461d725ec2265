"""Images built from Dockerfiles, as the service does on the first use of each."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import secrets
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import anyio.to_thread
import docker.errors
from aiohttp import web

from tests.emulators.daytona.rules import Build
from tests.emulators.daytona.storage import Storage
from tests.emulators.machines import Machines

REPOSITORY = "daytona-emulated"
MISSING = "no-such-image"  # a name with this in it is that of an image that does not exist

_FROM = re.compile(
    r"^(?P<head>FROM\s+(?:--\S+\s+)*)(?P<image>\S+)(?P<tail>(?:\s+AS\s+(?P<stage>\S+))?\s*)$",
    re.IGNORECASE | re.MULTILINE,
)
_LOOK_S = 0.05
_ROUNDS = 50


class NoSuchImage(Exception):
    """The image cannot be pulled; the message is as Docker's."""


@dataclass(slots=True)
class Built:
    """One build, under way or done.

    Attributes:
        lines: Its log.
        image: The engine's image, when it is done.
        error: Why it failed.
        done: Set at either end.
    """

    lines: list[str] = field(default_factory=list[str])
    image: str | None = None
    error: str | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Builds:
    """All builds, kept by what they were made of."""

    def __init__(self, machines: Machines, storage: Storage) -> None:
        self._machines = machines
        self._storage = storage
        self._builds: dict[Build, Built] = {}
        self._label = f"{REPOSITORY}={secrets.token_hex(8)}"  # of every image that is made here

    async def base(self, name: str) -> str:
        """The engine's image for a name: of that name if it has it, else the default."""
        return await self._known(name) or (await self._machines.images.resolve(None)).id

    async def _known(self, name: str) -> str | None:
        """The engine's image of that name, if it has one.

        Raises:
            NoSuchImage: The name says that there is none.
        """
        if MISSING in name:
            raise NoSuchImage(f"pull access denied for {name}, repository does not exist")
        try:
            found = await self._machines.call("inspect_image", name)
        except docker.errors.APIError:
            return None
        return str(found["Id"])

    async def image(self, build: Build) -> Built:
        """The image of a build, which one that asks for the same shares."""
        built = self._builds.get(build)
        if built is None or built.error is not None:
            built = self._builds[build] = Built()
            try:
                await self._build(build, built)
            except (NoSuchImage, _BuildError) as error:
                built.error = str(error)
                built.lines.append(f"ERROR: {error}\n")
            except BaseException as error:
                built.error = repr(error)
                raise
            finally:
                built.done.set()
        await built.done.wait()
        return built

    async def _build(self, build: Build, built: Built) -> None:
        dockerfile = await self._based(build.dockerfile)
        archives = [self._storage.archive(each) for each in build.contexts]
        for digest, archive in zip(build.contexts, archives, strict=True):
            if archive is None:
                raise _BuildError(f"the context {digest} was never uploaded")
        tag = f"{REPOSITORY}:{secrets.token_hex(8)}"
        found = [archive for archive in archives if archive is not None]
        with tempfile.TemporaryFile() as context:
            await anyio.to_thread.run_sync(_pack, context, dockerfile, found)
            lines = await self._machines.call(
                "build",
                fileobj=context,
                custom_context=True,
                tag=tag,
                rm=True,
                forcerm=True,
                decode=True,
            )
            await anyio.to_thread.run_sync(_read, lines, built.lines)
        built.image = tag

    async def _based(self, dockerfile: str) -> str:
        """The Dockerfile on images that this engine has."""
        stages: set[str] = {"scratch"}
        bases: dict[str, str] = {}
        stand_ins: set[str] = set()
        for found in _FROM.finditer(dockerfile):
            name = found["image"]
            if name.lower() not in stages:
                bases[name] = await self.base(name)
                if await self._known(name) is None:
                    stand_ins.add(name)
            if found["stage"]:
                stages.add(found["stage"].lower())
        if not bases:
            raise _BuildError("dockerfile parse error: no build stage in current context")

        def swap(found: re.Match[str]) -> str:
            name = found["image"]
            line = found["head"] + bases.get(name, name) + found["tail"].rstrip()
            # Images of the world run as root, unlike the one that stands in for them.
            user = "\nUSER root" if name in stand_ins else ""
            return f"{line}\nLABEL {self._label}{user}\n"

        return _FROM.sub(swap, dockerfile)

    async def follow(self, request: web.Request, build: Build) -> web.StreamResponse:
        """The log of a build: all of it with `follow`, else what there is."""
        follow = request.query.get("follow", "").lower() == "true"
        answer = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await answer.prepare(request)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while True:
                built = self._builds.get(build)
                done = built is not None and built.done.is_set()
                lines = built.lines[sent:] if built is not None else []
                sent += len(lines)
                if lines:
                    await answer.write("".join(lines).encode())
                if done or not follow:
                    break
                await asyncio.sleep(_LOOK_S)
        return answer

    async def aclose(self) -> None:
        """Remove all images that were made here, those of steps too."""
        call = self._machines.call
        for _ in range(_ROUNDS):
            found = await call("images", all=True, filters={"label": self._label})
            if not found:
                return
            for image in found:
                for name in image["RepoTags"] or [image["Id"]]:
                    # One that others are built on, or whose container is just being
                    # removed, goes in a later round.
                    with contextlib.suppress(docker.errors.APIError):
                        await call("remove_image", name)
            await asyncio.sleep(_LOOK_S)


class _BuildError(Exception):
    """A step of the Dockerfile failed; the message is the engine's."""


def _read(lines: Iterator[dict[str, Any]], log: list[str]) -> None:
    error = ""
    for line in lines:  # to the end, or the connection would be left open
        error = error or str(line.get("error", "")).strip()
        if text := str(line.get("stream", "")):
            log.append(text)
    if error:
        raise _BuildError(error)


def _pack(context: IO[bytes], dockerfile: str, archives: list[Path]) -> None:
    with tarfile.open(fileobj=context, mode="w") as packed:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(dockerfile.encode())
        packed.addfile(member, io.BytesIO(dockerfile.encode()))
        for archive in archives:
            with tarfile.open(archive) as unpacked:
                for each in unpacked:
                    packed.addfile(each, unpacked.extractfile(each) if each.isfile() else None)
    context.seek(0)
