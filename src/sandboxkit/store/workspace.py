"""What of a workspace is kept, and how much of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sandboxkit.spec import Value


class Workspace(Value):
    """Which files a session keeps: those of its work directory.

    Permission bits, times of files and symlinks are kept; owners, extended attributes and
    hard links are not; devices, sockets and FIFOs are left out.

    Attributes:
        excludes: Patterns (`*`, `?`, `[...]`) of what is left out. One with a slash is of a name
            relative to the work directory, such as `build/*.o`; another is of any part of it,
            such as `node_modules`.
        max_bytes: Bytes of all files. A workspace with more is not saved, and that is told.
        max_entries: Files, directories and symlinks; likewise.
        every_s: Seconds between saves while a prompt runs. None saves between prompts only: the
            next prompt waits until the save after the last one is done, so that what is stored
            is always the state between two prompts.
    """

    excludes: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_bytes: int = Field(default=4 * 1024**3, ge=0)
    max_entries: int = Field(default=200_000, ge=0)
    every_s: float | None = Field(default=60.0, gt=0)

    @property
    def left_out(self) -> tuple[str, ...]:
        """All that is left out: what the agents keep for themselves is no part of the work."""
        return (*self.excludes, ".sandboxkit")
