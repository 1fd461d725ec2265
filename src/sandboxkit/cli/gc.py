"""`sandboxkit gc`: the end of what nobody owns any more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from sandboxkit.cli.listing import age
from sandboxkit.cli.outcome import FAILED
from sandboxkit.cli.terminal import complain, make_console, plain, styled
from sandboxkit.errors import SandboxError
from sandboxkit.journal import journal
from sandboxkit.providers.registry import providers
from sandboxkit.reaping import Reaped, reap
from sandboxkit.spec import OWNER_LABEL

_STYLES: Final = {"removed": "green", "due": "yellow", "failed": "bold red", "kept": ""}


async def collect(chosen: Sequence[str], *, everyone: bool, paused: bool, dry_run: bool) -> int:
    """Reap each backend; the exit code. One that cannot be asked does not keep the others.

    Args:
        chosen: The backends; none are those that the journal knows, or else the default one.
        everyone: Whether sandboxes of other owners count.
        paused: Whether paused ones whose host is gone are removed.
        dry_run: Whether to say only what would be done.
    """
    names = list(dict.fromkeys(chosen)) or await _used()
    done: list[tuple[str, Reaped]] = []
    failed = False
    for name in names:
        try:
            found = await reap(name, dry_run=dry_run, everyone=everyone, paused=paused)
        except SandboxError as error:
            complain(f"{name}: {error} ({error.code})")
            failed = True
            continue
        done += [(name, one) for one in found]
    console = make_console()
    if done:
        console.print(_table(done))
    elif not failed:
        console.print(styled(f"There is no sandbox of yours on {', '.join(names)}."))
    failed = failed or any(one.action == "failed" for _name, one in done)
    return FAILED if failed else 0


async def _used() -> list[str]:
    """The backends that this user's sandboxes were on; else the default one."""
    known = set(providers.names())
    used = {row.provider for row in (await journal().rows()).values()} & known
    return sorted(used) or [os.environ.get("SANDBOXKIT_PROVIDER") or "docker"]


def _table(done: Sequence[tuple[str, Reaped]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("ID", "ON", "STATE", "AGE", "OWNER", "DONE", "WHY"):
        table.add_column(column, no_wrap=column in {"ID", "DONE"}, overflow="fold")
    for name, one in done:
        info = one.info
        cells = (info.id, name, info.state, age(info.created_at), info.labels.get(OWNER_LABEL, ""))
        row = [Text(plain(cell)) for cell in cells]
        table.add_row(*row, Text(one.action, _STYLES[one.action]), Text(plain(one.why)))
    return table
