"""The lines of a Dockerfile, done in a container that is committed at the end."""

from __future__ import annotations

import json
import posixpath
import shlex
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.emulators.machines import Machine, Machines
from tests.emulators.modal.uploads import Uploads, put_files

if TYPE_CHECKING:
    from modal_proto import api_pb2 as api

NO_SUCH_IMAGE = "no-such-image"
_NO_RETRIES = """
conf=/etc/apt/apt.conf.d
[ ! -d $conf ] || echo 'Acquire::Retries "0";' > $conf/emulated
"""


class BuildFailed(Exception):
    """A step of the build went wrong; the message is for the user."""


class Layer(NamedTuple):
    """What is known of an image.

    Attributes:
        docker_id: The engine's image; None is its default one.
        env: Of all programs.
        workdir: Where programs start.
        command: What runs in a sandbox without arguments.
    """

    docker_id: str | None = None
    env: Mapping[str, str] = {}
    workdir: str = "/"
    command: tuple[str, ...] = ()


class Builder:
    """Builds one layer.

    Args:
        machines: Where containers are had.
        uploads: What `COPY` may copy.
        definition: The lines, and their context.
        log: Is told each piece of output.
    """

    def __init__(
        self,
        machines: Machines,
        uploads: Uploads,
        definition: api.Image,
        log: Callable[[str], None],
    ) -> None:
        self._machines, self._uploads = machines, uploads
        self._definition, self._log = definition, log
        self._layer: Layer = Layer()
        self._machine: Machine | None = None

    async def build(self, bases: Mapping[str, Layer]) -> Layer:
        """Do all lines.

        Args:
            bases: What `FROM` may name, besides images of registries.

        Returns:
            The image; its `docker_id` is a new commit where a line changed files.

        Raises:
            BuildFailed: A line failed.
        """
        steps = {"RUN": self._run, "COPY": self._copy}
        try:
            for line in self._definition.dockerfile_commands:
                keyword, _, rest = line.strip().partition(" ")
                if not keyword or keyword.startswith("#"):
                    continue
                self._log(f"=> {line}\n")
                if keyword.upper() == "FROM":
                    self._layer = _base(rest.split()[0], bases)
                elif keyword.upper() in steps:
                    await steps[keyword.upper()](rest.strip())
                else:
                    self._configure(keyword.upper(), rest.strip())
            if self._machine is not None:
                self._layer = self._layer._replace(docker_id=await self._machine.commit())
        finally:
            if self._machine is not None:
                await self._machine.remove()
        return self._layer

    async def _run(self, command: str) -> None:
        machine = await self._started()
        program = await machine.start(
            ["/bin/sh", "-c", command], env=dict(self._layer.env), cwd=self._layer.workdir
        )
        try:
            await program.send_eof()
            async for piece in program:
                self._log(piece.data.decode(errors="replace"))
            code = await program.wait()
        finally:
            await program.aclose()
        if code != 0:
            raise BuildFailed(f"The command {command!r} ended with exit code {code}")

    async def _copy(self, rest: str) -> None:
        words = shlex.split(rest)
        if any(word.startswith("--") for word in words):
            raise BuildFailed(f"COPY {rest}: no registry can be reached")
        *sources, to = words
        machine = await self._started()
        with tempfile.TemporaryDirectory() as directory:
            files = self._context(Path(directory))
            chosen: dict[str, tuple[Path, int]] = {}
            for source in sources:
                chosen.update(_chosen(files, source, posixpath.join(self._layer.workdir, to)))
            if not chosen:
                raise BuildFailed(f"COPY {rest}: no such file in the build context")
            await put_files(self._machines, machine, chosen)

    def _context(self, directory: Path) -> dict[str, tuple[Path, int]]:
        """All files that may be copied, by their absolute path in the context."""
        files: dict[str, tuple[Path, int]] = {}
        if self._definition.context_mount_id:
            files.update(self._uploads.stored(self._definition.context_mount_id))
        for number, each in enumerate(self._definition.context_files):
            path = directory / str(number)
            path.write_bytes(each.data)
            files[posixpath.join("/", each.filename)] = path, 0o644
        return files

    def _configure(self, keyword: str, rest: str) -> None:
        layer = self._layer
        if keyword == "ENV":
            pairs = dict(pair.split("=", 1) for pair in shlex.split(rest))
            self._layer = layer._replace(env={**layer.env, **pairs})
        elif keyword == "WORKDIR":
            path = posixpath.join(layer.workdir, shlex.split(rest)[0])
            self._layer = layer._replace(workdir=path)
        elif keyword == "ENTRYPOINT" and rest == "[]":
            return  # no image's own is run here
        elif keyword == "CMD":
            self._layer = layer._replace(command=_command(rest))
        else:
            raise BuildFailed(f"{keyword} is not emulated")

    async def _started(self) -> Machine:
        if self._machine is None:
            # Without a network: apt-get finds at once that it has what it can have.
            self._machine = await self._machines.create(
                image=self._layer.docker_id, setup=_NO_RETRIES
            )
        return self._machine


def _base(name: str, bases: Mapping[str, Layer]) -> Layer:
    if NO_SUCH_IMAGE in name:
        raise BuildFailed(f"Failed to pull image {name!r}: manifest unknown")
    # No registry can be reached: any name stands for the engine's default image.
    return bases.get(name, Layer())


def _command(rest: str) -> tuple[str, ...]:
    return tuple(json.loads(rest)) if rest.startswith("[") else ("/bin/sh", "-c", rest)


def _chosen(
    files: Mapping[str, tuple[Path, int]], source: str, to: str
) -> dict[str, tuple[Path, int]]:
    """The files at or below a source, by where they are copied to."""
    root = posixpath.normpath(posixpath.join("/", source))
    if root in files:
        name = posixpath.basename(root) if to.endswith("/") else ""
        return {posixpath.join(to, name) if name else to: files[root]}
    below = root.rstrip("/") + "/"
    return {
        posixpath.join(to, path.removeprefix(below)): found
        for path, found in files.items()
        if path.startswith(below)
    }
