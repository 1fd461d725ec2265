"""A template's build: its steps, done in a machine whose files are then kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import docker.errors

from sandboxkit.errors import SandboxError
from tests.emulators.e2b.catalog import Catalog
from tests.emulators.e2b.refused import Refused
from tests.emulators.e2b.template import PROVISION, Build
from tests.emulators.machines import Machine, MachineGone, Machines, StartFailed

# No registry can be reached: the well-known images are all the engine's default one.
_WELL_KNOWN: Final = re.compile(
    r"(docker\.io/)?(library/)?(python|debian|ubuntu|node|e2bdev/base|e2bdev/code-interpreter)"
    r"(:[\w.-]+)?(@sha256:[0-9a-f]+)?"
)
_PIECE: Final = 1024 * 1024
# A file goes to the name that was given, or into a directory that ends in `/`; the files
# of a directory go into the target.
_MOVE: Final = """
source=$1 target=$2 owner=$3 mode=$4
[ -e "$source" ] || [ -L "$source" ] || { echo "source path does not exist" >&2; exit 1; }
chown -hR "$owner" "$source"
[ -z "$mode" ] || [ -L "$source" ] || chmod -R "$mode" "$source"
if [ -d "$source" ] && [ ! -L "$source" ]; then
  mkdir -p "$target" && cp -a "$source/." "$target" && rm -rf "$source"
else
  case $target in
    */) mkdir -p "$target" ;;
    *) mkdir -p "$(dirname "$target")" ;;
  esac
  mv "$source" "$target"
fi
"""

Json = dict[str, Any]


class BuildFailed(Exception):
    """A step went wrong; its message is what the customer is told."""


class Builder:
    """Does builds.

    Args:
        files: Where the uploaded archives are, by the hash that they came with.
    """

    def __init__(self, machines: Machines, catalog: Catalog, files: Mapping[str, Path]) -> None:
        self._machines, self._catalog, self._files = machines, catalog, files

    async def run(self, build: Build, wanted: Json) -> None:
        """Do one build; its status and log say what came of it."""
        build.status = "building"
        step = "base"
        try:
            image = await self._from(build, wanted)
            build.say(f"FROM {wanted.get('fromImage') or wanted.get('fromTemplate')}", step)
            machine = await self._machines.create(image=image)
            try:
                await _run(machine, build, ["sh", "-ec", PROVISION], user="root", cwd="/")
                for number, doing in enumerate(wanted.get("steps") or [], 1):
                    step = str(number)
                    build.say(f"{doing['type']} {' '.join(doing.get('args') or [])}", step)
                    await self._step(machine, build, doing)
                step = "finalize"
                await _run(machine, build, ["sh", "-c", "rm -rf /tmp/* /tmp/.[!.]*"], user="root")
                build.image = await machine.commit()
            finally:
                await machine.remove()
        except (BuildFailed, Refused, SandboxError, StartFailed, MachineGone) as error:
            build.say(str(error), step, "error")
            build.reason = {"message": f"{error} (step: {step})", "step": step}
            build.status = "error"
            return
        build.say("Build finished", "finalize")
        build.status = "ready"

    async def _from(self, build: Build, wanted: Json) -> str | None:
        """The engine's image to begin with; None is its default one."""
        if reference := wanted.get("fromTemplate"):
            _template, base = await self._catalog.find(reference)
            build.env, build.user, build.workdir = dict(base.env), base.user, base.workdir
            return base.image
        name = str(wanted["fromImage"])
        try:
            await self._machines.call("inspect_image", name)
        except docker.errors.APIError:
            if "no-such-image" in name or not _WELL_KNOWN.fullmatch(name):
                raise BuildFailed(
                    f"image '{name}' not found: the image or tag does not exist in the registry"
                ) from None
            return None
        return name

    async def _step(self, machine: Machine, build: Build, doing: Json) -> None:
        args: list[str] = doing.get("args") or []
        match doing["type"], args:
            case "RUN", [command, *user]:
                argv = ["/bin/bash", "-l", "-c", command]
                await _run(machine, build, argv, user=user[0] if user else build.user)
            case "COPY", [source, target, *rest]:
                owner, mode = [*rest, "", ""][:2]
                archive = self._archive(doing)
                await _copy(machine, build, archive, (source, target, owner, mode))
            case "ENV", _:
                build.env |= dict(zip(args[::2], args[1::2], strict=True))
            case "WORKDIR", [path]:
                made = f'mkdir -p "$0" && chown {build.user}: "$0"'
                await _run(machine, build, ["sh", "-c", made, path], user="root", cwd="/")
                build.workdir = path
            case "USER", [user, *_]:
                make = 'id -u "$0" >/dev/null 2>&1 || useradd -m -s /bin/bash "$0"'
                await _run(machine, build, ["sh", "-c", make, user], user="root")
                build.user = user
            case kind, _:
                raise BuildFailed(f"step {kind!r} with {args} is not emulated")

    def _archive(self, doing: Json) -> Path:
        """The files of a step, as they were uploaded."""
        digest = str(doing.get("filesHash") or "")
        if digest not in self._files:
            raise BuildFailed(f"failed to open files object from storage: {digest!r}")
        return self._files[digest]


async def _copy(
    machine: Machine, build: Build, archive: Path, how: tuple[str, str, str, str]
) -> None:
    """Unpack an archive, and move what a step names to where it shall be."""
    source, target, owner, mode = how
    owner = owner or build.user
    owner = owner if ":" in owner else f"{owner}:{owner}"
    place = f"/tmp/{archive.name}/unpack"
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    unpack = f"mkdir -p {place} && tar -x{'z' if packed else ''}f - -C {place}"
    await _run(machine, build, ["sh", "-c", unpack], user="root", cwd="/", stdin=archive)
    target = target if target.startswith("/") else f"{build.workdir}/{target}"
    move = ["sh", "-ec", _MOVE, "copy", f"{place}/{source}".rstrip("/"), target, owner, mode]
    await _run(machine, build, move, user="root", cwd="/")


async def _run(
    machine: Machine,
    build: Build,
    argv: list[str],
    *,
    user: str,
    cwd: str | None = None,
    stdin: Path | None = None,
) -> None:
    """Run one program of a build.

    Raises:
        BuildFailed: It failed.
    """
    program = await machine.start(argv, env=build.env, cwd=cwd or build.workdir, user=user)
    try:
        if stdin is not None:
            with stdin.open("rb") as file:
                while piece := file.read(_PIECE):
                    await program.send(piece)
        await program.send_eof()
        said = {1: b"", 2: b""}
        async for output in program:
            said[output.fd] += output.data
        code = await program.wait()
    finally:
        await program.aclose()
    for line in (said[1] + said[2]).decode(errors="replace").splitlines():
        build.say(line, "run")
    if code:
        words = said[2].decode(errors="replace").strip()[:512]
        raise BuildFailed(f"failed to run command '{argv[-1][:80]}': exit status {code}: {words}")
