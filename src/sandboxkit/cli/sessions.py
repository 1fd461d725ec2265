"""`sandboxkit sessions`: what a store keeps, listed, shown, forgotten."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import anyio.to_thread
from rich.filesize import decimal
from rich.table import Table

from sandboxkit.cli.listing import age
from sandboxkit.cli.outcome import FAILED
from sandboxkit.cli.terminal import complain, make_console, plain, styled
from sandboxkit.errors import ProviderNotInstalledError, SandboxError, StoreError

if TYPE_CHECKING:
    from sandboxkit.store import SessionRecord, Store

_COLUMNS = ("ID", "STATE", "SAVED", "AGENT", "ON", "FILES", "SIZE")


async def list_sessions(url: str | None, *, quiet: bool, as_json: bool) -> int:
    """List all; the exit code.

    Args:
        url: The store's database; None is the default one.
        quiet: Whether to print ids alone, one to a line.
        as_json: Whether to print JSON.
    """
    async with opened(url) as store:
        found = await store.list()
        where = repr(store)
    if as_json:
        _write_json([_facts(record) for record in found])
    elif quiet:
        for record in found:
            sys.stdout.write(plain(record.id) + "\n")
    elif not found:
        make_console().print(styled(f"There is no session in {where}."), soft_wrap=True)
    else:
        make_console().print(_table(found))
    return 0


async def show_session(session_id: str, url: str | None, *, as_json: bool) -> int:
    """Show one; the exit code. See `list_sessions`."""
    async with opened(url) as store:
        record = await store.get(session_id)
    if as_json:
        _write_json({**_facts(record), "recipe": dict(record.spec)})
        return 0
    table = Table.grid(padding=(0, 2))
    for name, value in _shown(record):
        table.add_row(styled(name, "bold"), styled(value))
    console = make_console()
    console.print(table)
    console.print(styled(f"\n{go_on(record.id, url)}"), soft_wrap=True)
    return 0


def go_on(session_id: str, url: str | None) -> str:
    """How a session goes on, as a line; the URL may hold a password, and is not in it."""
    store = "" if url is None else " --store URL"
    return f'To go on: sandboxkit run --resume {session_id}{store} "..."'


async def remove_sessions(ids: Sequence[str], url: str | None, *, yes: bool) -> int:
    """Forget sessions; the exit code. What cannot be forgotten does not keep the others.

    Args:
        ids: Their ids.
        url: As above.
        yes: Whether open ones are meant too.
    """
    failed = False
    async with opened(url) as store:
        for session_id in ids:
            try:
                record = await store.get(session_id)
                if record.state == "open" and not yes:
                    raise StoreError(
                        f"The session {session_id} is open: a host has it, or has died with it. "
                        "Add --yes to forget it all the same.",
                        code="open",
                    )
                await store.delete(session_id)
            except SandboxError as error:
                complain(f"{error} ({error.code})")
                failed = True
            else:
                sys.stdout.write(plain(session_id) + "\n")
    return FAILED if failed else 0


async def sweep_files(url: str | None, files: str | None) -> int:
    """Free what no session has; the exit code."""
    async with opened(url, files) as store:
        count = await store.sweep()
    make_console().print(styled(f"pieces freed: {count}"))
    return 0


@contextlib.asynccontextmanager
async def opened(url: str | None, files: str | None = None) -> AsyncGenerator[Store]:
    """The store.

    Raises:
        ProviderNotInstalledError: What it needs is not installed.
    """
    try:
        store = await anyio.to_thread.run_sync(_make, url, files)  # the imports take a while
    except ImportError as error:
        raise ProviderNotInstalledError(
            f'this needs what a store needs: {sys.executable} -m pip install "sandboxkit[store]"'
        ) from error
    async with store:
        yield store


def _make(url: str | None, files: str | None) -> Store:
    from sandboxkit.store import Store

    return Store(url, files=files)


def _table(found: Sequence[SessionRecord]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, no_wrap=column == "ID", overflow="fold")
    for record in found:
        kept = record.snapshot
        cells = (
            record.id,
            record.state,
            age(_when(record.updated)),
            record.agent,
            record.backend,
            "" if kept is None else f"{kept.files}",
            "" if kept is None else decimal(kept.bytes),
        )
        table.add_row(*(styled(cell) for cell in cells))
    return table


def _shown(record: SessionRecord) -> Iterator[tuple[str, str]]:
    facts = _facts(record)
    for name in ("id", "state", "agent", "backend", "created", "updated"):
        yield name, str(facts[name])
    if record.conversation != record.id:
        yield "conversation", record.conversation
    if record.parent is not None:
        yield "forked from", record.parent
    if (kept := record.snapshot) is not None:
        yield "files", f"{kept.files}, {decimal(kept.bytes)}"
    recipe = cast("dict[str, Any]", record.spec)
    for name, value in sorted(recipe.get("spec", {}).items()):
        yield name, value if isinstance(value, str) else json.dumps(value)
    for name in ("env", "secrets", "artifacts"):
        if names := recipe.get(name):
            yield f"{name}, to be given again", ", ".join(names)


def _facts(record: SessionRecord) -> dict[str, Any]:
    kept = record.snapshot
    return {
        "id": record.id,
        "state": record.state,
        "agent": record.agent,
        "backend": record.backend,
        "created": _when(record.created).isoformat(timespec="seconds"),
        "updated": _when(record.updated).isoformat(timespec="seconds"),
        "conversation": record.conversation,
        "parent": record.parent,
        "files": None if kept is None else kept.files,
        "bytes": None if kept is None else kept.bytes,
    }


def _when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _write_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
