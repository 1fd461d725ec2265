"""Installing what a Debian or Ubuntu machine lacks, with apt-get and no questions."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Sequence

import anyio

from sandboxkit.errors import ProviderUnavailableError

APT_S = 900.0
_LOCK_S = 120


def can_install() -> bool:
    """Whether this is Debian, Ubuntu or a child of theirs, and we are root."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return False
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    return bool(family & {"debian", "ubuntu"}) and os.geteuid() == 0


async def install(packages: Sequence[str], tell: Callable[[str], None]) -> None:
    """Install Debian packages, with no recommended ones.

    Args:
        packages: Their names. Nothing happens for an empty list.
        tell: Called with each step in words.

    Raises:
        ProviderUnavailableError: apt-get failed or took more than 15 minutes; the
            message carries its last lines.
    """
    if not packages:
        return
    tell("Updating the package lists (apt-get update).")
    await _apt("update", "-q")
    tell(f"Installing {', '.join(packages)} (apt-get install).")
    await _apt("install", "-q", "-y", "--no-install-recommends", *packages)


async def _apt(*arguments: str) -> None:
    argv = ["apt-get", "-o", f"DPkg::Lock::Timeout={_LOCK_S}", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    what = f"`{' '.join(('apt-get', *arguments))}`"
    try:
        with anyio.fail_after(APT_S):
            done = await anyio.run_process(
                argv,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
            )
    except TimeoutError as error:
        raise ProviderUnavailableError(
            f"{what} did not finish within {APT_S:.0f} s. Look at the machine's package "
            "manager, then try again.",
            op="bring_up",
            provider="docker",
            retryable=True,
        ) from error
    if done.returncode:
        tail = "\n".join(
            f"  {line}" for line in done.stdout.decode(errors="replace").splitlines()[-8:]
        )
        raise ProviderUnavailableError(
            f"{what} failed with exit code {done.returncode}. Its last lines:\n{tail}",
            op="bring_up",
            provider="docker",
        )
