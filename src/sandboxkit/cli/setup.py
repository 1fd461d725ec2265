"""`--setup`: a Docker engine where none runs."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from sandboxkit.cli.terminal import styled
from sandboxkit.errors import InvalidSpecError, ProviderUnavailableError, SandboxError
from sandboxkit.providers.registry import providers

if TYPE_CHECKING:
    from rich.console import Console

STOP_COMMAND = "python -m sandboxkit.providers.docker.bringup --stop"


async def bring_engine_up(console: Console, provider: str) -> None:
    """Bring up what the backend needs, and say each step.

    Raises:
        InvalidSpecError: The backend is not one that can be brought up.
        ProviderUnavailableError: No engine can be started here; the message says why.
    """
    if provider != "docker":
        raise InvalidSpecError(f"--setup brings up a Docker engine; it does nothing for {provider}")
    providers.load(provider)  # says what to install where its package is missing
    from sandboxkit.providers.docker.bringup import bring_up

    def say(step: str) -> None:
        console.print(styled("  • ", "green").append(styled(step)), soft_wrap=True)

    running = await bring_up(progress=say)
    if running.daemon is not None:
        say(f"It goes on running; `{STOP_COMMAND}` stops it.")


def setup_hint(error: SandboxError) -> str:
    """What to say after `error` where `--setup` would help; else nothing.

    It would, as root on Debian or Ubuntu, where the user has not chosen another engine.
    """
    helps = (
        isinstance(error, ProviderUnavailableError)
        and error.provider == "docker"
        and error.op != "bring_up"
        and not os.environ.keys() & {"DOCKER_HOST", "DOCKER_CONTEXT"}
        and hasattr(os, "geteuid")
        and os.geteuid() == 0
        and shutil.which("apt-get") is not None
    )
    return "`sandboxkit doctor --setup` installs and starts a Docker engine." if helps else ""
