"""Templates: what E2B makes sandboxes from, built where a spec asks for one.

CPUs and memory belong to a template, as the image and the files in it do. So there is one
for each combination, under a name that is a digest of it, built once in an account.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import posixpath
import shlex
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from sandboxkit.errors import ImageError
from sandboxkit.progress import Progress, report
from sandboxkit.providers.e2b.account import Account
from sandboxkit.providers.e2b.failures import PROVIDER, map_errors
from sandboxkit.spec import Artifact

if TYPE_CHECKING:
    from e2b import E2B, BuildInfo

NAMED: Final = "template:"
E2B_BASE: Final = "base"
_RECIPE: Final = 1  # counts the changes to what is built from the same values
_BUILD_S: Final = 1800.0
_POLL_S: Final = 0.5
_STAGING: Final = "/sandboxkit-staging/"
_KEPT: Final = "/opt/sandboxkit/artifacts"
_VOLATILE: Final = ("/tmp/", "/run/", "/var/run/", "/dev/")  # noqa: S108 - in the machine

_building: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], asyncio.Lock] = (
    WeakValueDictionary()
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A template to be built.

    Attributes:
        image: A Docker image, or `template:` and the name of a template.
        cpu: CPUs.
        memory_mib: Memory in MiB.
        artifacts: Files to put in.
    """

    image: str
    cpu: int
    memory_mib: int
    artifacts: tuple[Artifact, ...] = ()

    @property
    def name(self) -> str:
        """The template's name, the same for the same values."""
        brought = [(a.name, a.version, a.platform, a.target) for a in self.artifacts]
        values = [_RECIPE, self.image, self.cpu, self.memory_mib, brought]
        return f"sandboxkit-{hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]}"


class Templates:
    """The templates of one account that are built here."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._ready: set[str] = set()
        self._unusable: set[str] = set()

    async def ready(self, recipe: Recipe) -> str:
        """The name of the template, built where it does not exist yet.

        Cancelling leaves a build that has begun to E2B, which finishes it.

        Raises:
            ImageError: The image cannot be had, or the build failed.
        """
        name = recipe.name
        lock = _building.setdefault((asyncio.get_running_loop(), name), asyncio.Lock())
        async with lock:
            if name not in self._ready:
                if name in self._unusable or not await self._exists(name):
                    await self._build(recipe)
                self._unusable.discard(name)
                self._ready.add(name)
        return name

    def forget(self, name: str) -> bool:
        """Have a template built again, whose name exists but which nothing starts from.

        Returns:
            Whether it was thought to be ready, so that building it may help.
        """
        if name not in self._ready:
            return False
        self._ready.discard(name)
        self._unusable.add(name)
        return True

    async def _exists(self, name: str) -> bool:
        return await self._account.call("image", lambda e2b: e2b.AsyncTemplate.exists(name))

    async def _build(self, recipe: Recipe) -> None:
        step = f"build {recipe.image} for E2B"
        report(Progress(step, unit="items"))
        client = await self._account.client()
        stop = threading.Event()
        with map_errors("build", about=recipe.image), anyio.fail_after(_BUILD_S):
            try:
                # In a thread: the SDK reads, hashes and packs the files where it is called.
                build = await anyio.to_thread.run_sync(
                    _begin, client, recipe, stop, abandon_on_cancel=True
                )
            finally:
                stop.set()
            await self._finish(build, recipe, step)
        report(Progress(step, finished=True, unit="items"))

    async def _finish(self, build: BuildInfo, recipe: Recipe, step: str) -> None:
        lines = 0
        while True:
            status = await self._account.call(
                "build",
                lambda e2b: e2b.AsyncTemplate.get_build_status(build, logs_offset=lines),  # noqa: B023 - called at once
                about=recipe.image,
            )
            lines += len(status.log_entries)
            report(Progress(step, lines, unit="items"))
            if status.status.value == "ready":
                return
            if status.status.value == "error":
                said = status.reason.message if status.reason else "no reason given"
                raise ImageError(
                    f"E2B cannot build the image {recipe.image}: {said}",
                    op="build",
                    provider=PROVIDER,
                )
            await anyio.sleep(_POLL_S)


def _begin(client: E2B, recipe: Recipe, stop: threading.Event) -> BuildInfo:
    """Upload what the build needs and start it; in a thread."""

    def said(_line: object) -> None:
        if stop.is_set():
            raise RuntimeError("nobody waits for this build any more")

    with TemporaryDirectory(prefix="sandboxkit-e2b-") as context:
        template = client.Template(file_context_path=context)
        if recipe.image == NAMED + E2B_BASE:
            builder = template.from_base_image()
        elif recipe.image.startswith(NAMED):
            builder = template.from_template(recipe.image.removeprefix(NAMED))
        else:
            builder = template.from_image(recipe.image)
        for number, artifact in enumerate(recipe.artifacts):
            link = Path(context) / str(number)
            link.symlink_to(artifact.source.absolute())
            builder = builder.copy(link.name, _STAGING, user="root", resolve_symlinks=True)
            builder = builder.run_cmd(_put(artifact, number), user="root")
        return client.Template.build_in_background(
            builder,
            recipe.name,
            cpu_count=recipe.cpu,
            memory_mb=recipe.memory_mib,
            on_build_logs=said,
            request_timeout=_BUILD_S,
        )


def _home(artifact: Artifact, number: int) -> str:
    """Where a file is in the template: not where E2B empties the disk, or a machine hides it."""
    volatile = artifact.target.startswith(_VOLATILE)
    return f"{_KEPT}/{number}/file" if volatile else artifact.target


def _put(artifact: Artifact, number: int) -> str:
    """The command that puts a file at its home, read-only for the sandbox's user."""
    home = _home(artifact, number)
    staged, place = f"{_STAGING}{number}", shlex.quote(posixpath.dirname(home))
    moved = f"mkdir -p {place} && mv {staged} {shlex.quote(home)} && rmdir {_STAGING}"
    own = f"{place} {shlex.quote(home)}"
    return f"{moved} && chown root:root {own} && chmod 0755 {own}"


def put_at_start(artifacts: Iterable[Artifact]) -> str | None:
    """The command, for root, that puts the rest at their places in a new machine."""
    links: list[str] = []
    for number, artifact in enumerate(artifacts):
        home = _home(artifact, number)
        if home != artifact.target:
            place = shlex.quote(posixpath.dirname(artifact.target))
            links.append(f"mkdir -p {place} && ln -s {home} {shlex.quote(artifact.target)}")
    return " && ".join(links) or None
