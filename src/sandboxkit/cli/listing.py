"""`sandboxkit ls` and `sandboxkit rm`: what sandboxkit has created, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from sandboxkit.cli.outcome import FAILED, USAGE
from sandboxkit.cli.terminal import complain, make_console, plain, styled
from sandboxkit.errors import SandboxError
from sandboxkit.ownership import owner
from sandboxkit.providers.registry import providers
from sandboxkit.spec import LABEL_PREFIX, OWNER_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandboxkit.providers.base import SandboxInfo, SandboxProvider


async def list_sandboxes(*, provider: str, everyone: bool, quiet: bool) -> int:
    """List sandboxes; the exit code.

    Args:
        provider: The backend.
        everyone: Whether those of other owners count too.
        quiet: Whether to print ids alone, one to a line.
    """
    async with _provider(provider) as backend:
        found = await _found(backend, everyone=everyone)
    if quiet:
        for info in found:
            sys.stdout.write(plain(info.id) + "\n")
        return 0
    console = make_console()
    if not found:
        whose = "" if everyone else f" of {owner()}"
        console.print(styled(f"There is no sandbox{whose} on {provider}."))
        return 0
    console.print(_table(found))
    return 0


def _table(found: Iterable[SandboxInfo]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("ID", "STATE", "AGE", "OWNER", "IMAGE", "LABELS"):
        table.add_column(column, no_wrap=column == "ID", overflow="fold")
    for info in found:
        own = {n: v for n, v in info.labels.items() if not n.startswith(LABEL_PREFIX)}
        row: tuple[object, ...] = (
            info.id,
            info.state,
            age(info.created_at),
            info.labels.get(OWNER_LABEL, ""),
            info.effective.image or "",
            " ".join(f"{name}={value}" for name, value in sorted(own.items())),
        )
        table.add_row(*(Text(plain(str(cell))) for cell in row))
    return table


def age(created: datetime | None) -> str:
    """How long ago that was, in its largest unit; empty where it is not known."""
    if created is None:
        return ""
    seconds = max(0, int((datetime.now(UTC) - created).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


async def remove(ids: Sequence[str], *, provider: str, every: bool, yes: bool) -> int:
    """Destroy sandboxes; the exit code. What cannot be removed does not keep the others.

    Args:
        ids: Their ids.
        provider: The backend.
        every: Whether all of this owner are meant.
        yes: Whether the user has agreed to that.
    """
    async with _provider(provider) as backend:
        if every:
            found = await _found(backend, everyone=False)
            if found and not yes:
                make_console().print(_table(found))
                complain(f"add --yes to remove all {len(found)} of them.", label="Nothing removed")
                return USAGE
            ids = [info.id for info in found]
        removed = await asyncio.gather(*(_remove_one(backend, each) for each in ids))
    return 0 if all(removed) else FAILED


async def _remove_one(backend: SandboxProvider, sandbox_id: str) -> bool:
    try:
        handle = await backend.attach(sandbox_id)
        await handle.destroy()
    except SandboxError as error:
        complain(f"{error} ({error.code})")
        return False
    sys.stdout.write(plain(sandbox_id) + "\n")
    return True


@contextlib.asynccontextmanager
async def _provider(name: str) -> AsyncGenerator[SandboxProvider]:
    backend = providers.make(name)
    try:
        yield backend
    finally:
        await backend.aclose()


async def _found(backend: SandboxProvider, *, everyone: bool) -> list[SandboxInfo]:
    labels = {} if everyone else {OWNER_LABEL: owner()}
    return [info async for info in backend.list(labels)]
