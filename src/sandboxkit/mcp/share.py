"""The tools that copy between the sandbox and one directory of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
from pydantic import Field

from sandboxkit.errors import PathExistsError, PathNotFoundError, UnsafePathError
from sandboxkit.mcp.machine import Machine
from sandboxkit.mcp.tool import Arguments, Result, Tool

LocalPath = Annotated[
    str, Field(min_length=1, description="On the user's machine, in the shared directory.")
]
RemotePath = Annotated[
    str, Field(min_length=1, description="In the sandbox; relative to the work directory.")
]


class CopyArguments(Arguments):
    """What `upload` and `download` take."""

    local: LocalPath
    remote: RemotePath


class Copied(Result):
    """A copy that was made."""

    local: str
    remote: str
    into: str = Field(description="`sandbox` or `machine`.")

    def text(self) -> str:
        """Where it is now."""
        if self.into == "sandbox":
            return f"{self.local} is now at {self.remote} in the sandbox"
        return f"{self.remote} is now at {self.local} on the user's machine"


class Share:
    """A directory that the user has named; nothing outside of it is read or written.

    Args:
        directory: The directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def upload(self, machine: Machine, arguments: CopyArguments) -> Copied:
        """Copy a file, or a directory with all below it, into the sandbox."""
        local = await self._within(arguments.local)
        if not await anyio.Path(local).exists():
            raise PathNotFoundError(
                f"there is nothing at {arguments.local} in the shared directory"
            )
        sandbox = await (await machine.life()).ready()
        await sandbox.files.upload(local, arguments.remote)
        return Copied(local=str(local), remote=arguments.remote, into="sandbox")

    async def download(self, machine: Machine, arguments: CopyArguments) -> Copied:
        """Copy a file, or a directory with all below it, out of the sandbox."""
        local = await self._within(arguments.local)
        if await anyio.Path(local).exists():
            raise PathExistsError(
                f"there is something at {arguments.local} already, and downloads replace nothing: "
                "choose another name"
            )
        sandbox = await (await machine.life()).ready()
        await anyio.Path(local.parent).mkdir(parents=True, exist_ok=True)
        await sandbox.files.download(arguments.remote, local)
        return Copied(local=str(local), remote=arguments.remote, into="machine")

    async def _within(self, name: str) -> Path:
        root = Path(await anyio.Path(self._directory).resolve())
        path = Path(await anyio.Path(root / name).resolve())
        if not path.is_relative_to(root):
            raise UnsafePathError(f"{name} leads out of the shared directory {root}")
        return path

    def tools(self) -> tuple[Tool, ...]:
        """The two tools."""
        return (
            Tool(
                "upload",
                "Copy into the sandbox",
                "Copy a file, or a directory with all below it, from the directory that the "
                f"user shares ({self._directory}) into the sandbox.",
                CopyArguments,
                Copied,
                self.upload,
                destroys=True,
                repeats=True,
            ),
            Tool(
                "download",
                "Copy out of the sandbox",
                "Copy a file, or a directory with all below it, from the sandbox to a new name "
                f"in the directory that the user shares ({self._directory}). Nothing is replaced.",
                CopyArguments,
                Copied,
                self.download,
            ),
        )
