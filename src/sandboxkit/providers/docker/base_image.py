"""sandboxkit's own image: built on first use, kept by the digest of its recipe."""

from __future__ import annotations

import asyncio
import hashlib
import io
import platform
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final
from weakref import WeakKeyDictionary

import anyio
from anyio import to_thread

from sandboxkit.errors import CapacityError, ImageError, SandboxError
from sandboxkit.progress import Progress, report
from sandboxkit.providers.docker import debian_image
from sandboxkit.providers.docker.api import Api
from sandboxkit.providers.docker.engine import LONG_S, Engine, StillWanted

REPOSITORY: Final = "sandboxkit/base"
_FILES: Final = ("Dockerfile", "packages", "setup.sh")
_SETTINGS: Final = re.compile(r"^(?:ENV|USER|WORKDIR|CMD) .*$", re.MULTILINE)
_SUITE: Final = re.compile(r"^FROM debian:(\w+)-slim$", re.MULTILINE)

_SAME_CPU: Final = {"arm64": "aarch64", "amd64": "x86_64"}

_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, anyio.Lock] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Recipe:
    """The files that make the image."""

    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """What changes whenever the recipe does."""
        together = b"\0".join(self.files[name] for name in _FILES)
        return hashlib.sha256(together).hexdigest()[:12]

    @property
    def suite(self) -> str:
        """The release of Debian."""
        found = _SUITE.search(self._dockerfile)
        if found is None:
            raise RuntimeError("the recipe's FROM line names no release of Debian")
        return found[1]

    @property
    def packages(self) -> list[str]:
        """The names of the packages beside the minimum."""
        return self.files["packages"].decode().split()

    @property
    def settings(self) -> list[str]:
        """The lines of the Dockerfile that set how the image runs."""
        return _SETTINGS.findall(self._dockerfile)

    @property
    def _dockerfile(self) -> str:
        return self.files["Dockerfile"].decode()


@cache
def recipe() -> Recipe:
    """The recipe in the package; reads three small files once."""
    here = resources.files("sandboxkit.providers.docker") / "image"
    return Recipe({name: (here / name).read_bytes() for name in _FILES})


async def tag() -> str:
    """The name under which this version's image is kept on an engine."""
    return f"{REPOSITORY}:{(await to_thread.run_sync(recipe)).digest}"


def building() -> anyio.Lock:
    """Held while building, by all providers of this event loop: one build is enough."""
    return _locks.setdefault(asyncio.get_running_loop(), anyio.Lock())


async def build(engine: Engine, name: str) -> None:
    """Build the image: from the Dockerfile, else from Debian packages on this machine.

    Two processes that build at once do no harm: the last one keeps the name.

    Raises:
        ImageError: Neither way worked; the message says why, and what to do.
    """
    step = f"build the default image {name}"
    report(Progress(step))
    try:
        await engine.work("image.build", lambda api, go_on: _by_dockerfile(api, go_on, name))
    except (ImageError, CapacityError) as by_dockerfile:
        report(Progress(f"{step}: no registry answers; building from Debian packages"))
        try:
            await _by_packages(engine, name)
        except (SandboxError, OSError) as by_packages:
            raise ImageError(
                f"The default image cannot be built. From the Dockerfile: {by_dockerfile.message} "
                f"From Debian packages: {by_packages} Let the engine reach a registry, or install "
                "`mmdebstrap` on this machine, or name an image of yours that has Python 3.8.",
                op="image.build",
                provider="docker",
                retryable=True,
            ) from by_dockerfile
    report(Progress(step, finished=True))


def _by_dockerfile(api: Api, still_wanted: StillWanted, name: str) -> None:
    lines = api.build(
        fileobj=_context(),
        custom_context=True,
        tag=name,
        rm=True,
        forcerm=True,
        decode=True,
    )
    for line in lines:
        still_wanted()
        if "error" in line:
            said = str(line["error"]).strip()
            raise ImageError(f"{said}.", op="image.build", provider="docker")
        if text := str(line.get("stream", "")).strip():
            report(Progress(f"build: {text.splitlines()[-1][:100]}"))


def _context() -> io.BytesIO:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in recipe().files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    context.seek(0)
    return context


async def _by_packages(engine: Engine, name: str) -> None:
    made = recipe()
    theirs, ours = (await engine.info()).get("Architecture"), platform.machine()
    if theirs not in {ours, _SAME_CPU.get(ours)}:
        raise ImageError(f"the engine's CPU is {theirs}, this machine's is {ours}.")
    async with debian_image.built(made.suite, made.packages, made.files["setup.sh"]) as archive:

        def load(api: Api, still_wanted: StillWanted) -> None:
            repository, _, tagged = name.partition(":")
            report(Progress(f"import {name}"))
            with archive.open("rb") as content:

                def pieces() -> Iterable[bytes]:
                    while piece := content.read(1024 * 1024):
                        still_wanted()
                        yield piece

                api.import_image_from_stream(
                    pieces(), repository=repository, tag=tagged, changes=made.settings
                )

        await engine.work("image.import", load, deadline_s=LONG_S)
