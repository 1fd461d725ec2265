"""An example, run as it stands in a process of its own, without an account."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio

from sandboxkit.providers.docker import DockerProvider
from sandboxkit.spec import OWNER_LABEL

FOLDER = Path(__file__).parents[2] / "examples"
DEADLINE_S = 500.0  # the first on an emulated cloud builds an image with the CLI in it


class Example:
    """One of them, with an owner and a state directory of its own.

    Args:
        name: Its file, without `.py`.
        state: The directory.
    """

    def __init__(self, name: str, state: Path) -> None:
        self.owner = f"example-{secrets.token_hex(4)}"
        self._file, self._state = FOLDER / f"{name}.py", state

    async def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The lines that it prints."""
        own = {
            name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC")
        }
        own |= {"SANDBOXKIT_OWNER": self.owner, "XDG_STATE_HOME": str(self._state), **(env or {})}
        with anyio.fail_after(DEADLINE_S):
            done = await anyio.run_process(
                [sys.executable, "-W", "error", self._file, *arguments], check=False, env=own
            )
        told = done.stderr.decode()
        assert (done.returncode, told) == (0, ""), told
        return done.stdout.decode().splitlines()

    async def alive(self) -> set[str]:
        """Its sandboxes on Docker."""
        return {each async for each in self._alive()}

    async def _alive(self) -> AsyncIterator[str]:
        provider = DockerProvider()
        try:
            async for info in provider.list({OWNER_LABEL: self.owner}):
                yield info.id
        finally:
            await provider.aclose()
