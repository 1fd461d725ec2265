"""A root file system made of Debian packages, on this machine, without a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import ImageError
from sandboxkit.progress import Progress, report
from sandboxkit.providers.docker.daemon import find_program

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, Process

_MIRROR: Final = "http://deb.debian.org"  # signed: apt checks what it gets
# In namespaces of its own, all its processes and mounts end with the first process.
_ALONE: Final = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")
_BUILD_S: Final = 900.0
_STOP_S: Final = 20.0
_SLIM: Final = ("doc", "man", "info", "locale")


@asynccontextmanager
async def built(suite: str, packages: Sequence[str], setup: bytes) -> AsyncGenerator[Path, None]:
    """Build it with mmdebstrap; the block gets the tar archive, which ends with it.

    Args:
        suite: The release of Debian.
        packages: What to install beside the minimum.
        setup: A shell script that is run inside at the end.

    Raises:
        ImageError: There is no mmdebstrap here, or it failed.
    """
    program = await to_thread.run_sync(find_program, "mmdebstrap")
    if program is None or os.geteuid() != 0:
        raise ImageError(
            "that needs root and `mmdebstrap` (`sudo apt-get install mmdebstrap`).",
            op="image.build",
            provider="docker",
        )
    place = Path(await to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="sandboxkit-image-")))
    try:
        script, archive = place / "setup.sh", place / "image.tar"
        await anyio.Path(script).write_bytes(setup)
        argv = [*_ALONE, program, "--variant=minbase", f"--include={','.join(packages)}"]
        argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _SLIM]
        argv += [f"--customize-hook=copy-in {script} /tmp"]
        argv += ['--customize-hook=chroot "$1" sh /tmp/setup.sh']
        argv += ['--customize-hook=rm "$1/tmp/setup.sh"']
        await _run([*argv, suite, str(archive), *_sources(suite)], place)
        yield archive
    finally:
        await run_to_end(_remove(place), deadline_s=_STOP_S)


def _sources(suite: str) -> list[str]:
    return [
        f"deb {_MIRROR}/debian {suite} main",
        f"deb {_MIRROR}/debian {suite}-updates main",
        f"deb {_MIRROR}/debian-security {suite}-security main",
    ]


async def _run(argv: Sequence[str], place: Path) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(place), "LC_ALL": "C"}
    process = await anyio.open_process(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        with anyio.fail_after(_BUILD_S):
            last = await _follow(process.stderr)
            code = await process.wait()
    except TimeoutError as error:
        await run_to_end(_stop(process), deadline_s=_STOP_S)
        raise ImageError(
            f"mmdebstrap did not finish within {_BUILD_S:.0f} s.",
            op="image.build",
            provider="docker",
            retryable=True,
        ) from error
    except BaseException:
        await run_to_end(_stop(process), deadline_s=_STOP_S)
        raise
    if code:
        raise ImageError(
            f"mmdebstrap failed with exit code {code}: {last}.", op="image.build", provider="docker"
        )


async def _follow(lines: ByteReceiveStream | None) -> str:
    """Report each step as progress; returns the last lines."""
    said, partial = [""], b""
    while lines is not None:
        try:
            *whole, partial = (partial + await lines.receive()).split(b"\n")
        except anyio.EndOfStream:
            break
        for line in whole:
            said = [*said[-2:], line.decode(errors="replace").strip()]
            if said[-1].startswith("I: ") and said[-1].endswith("..."):
                report(Progress(f"build: {said[-1].removeprefix('I: ')}"))
    return " ".join(filter(None, [*said, partial.decode(errors="replace").strip()]))[-500:]


async def _stop(process: Process) -> None:
    process.kill()
    await process.wait()
    await process.aclose()


async def _remove(place: Path) -> None:
    await to_thread.run_sync(lambda: shutil.rmtree(place, ignore_errors=True))
