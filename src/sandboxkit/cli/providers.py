"""`sandboxkit providers`: which backends there are, and what each still needs.

Nobody is asked and no vendor's package is imported; a broken plugin is one line of the list.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from rich.table import Table

from sandboxkit.cli.terminal import make_console, plain, styled
from sandboxkit.errors import ProviderNotInstalledError, SandboxError
from sandboxkit.providers.base import INTERFACE_VERSION, Capabilities, Credentials
from sandboxkit.providers.registry import providers

_WALLS: Final = {
    "none": "no isolation",
    "process": "processes",
    "container": "containers",
    "gvisor": "containers under gVisor",
    "microvm": "microVMs",
}
_FLAGS: Final = {
    "images": "any image",
    "runtimes": "choice of runtime",
    "lifetime": "ends by itself",
    "pause": "pause",
    "snapshot": "snapshots",
    "expose": "public URLs",
}


@dataclass(frozen=True, slots=True)
class Backend:
    """What can be known of a provider without using it.

    Attributes:
        name: The name it is chosen by.
        packages: What brings it, with the version; more than one is a conflict.
        missing: What must be installed first, as a sentence with the line that does it.
        credentials: What it would sign in with; None where it is broken.
        capabilities: What it can do; None where it is broken.
        interface_version: What it was written for; None where it could not be read.
        error: What is broken; None if nothing.
    """

    name: str
    packages: Sequence[str] = ()
    missing: str | None = None
    credentials: Credentials | None = None
    capabilities: Capabilities | None = None
    interface_version: int | None = None
    error: str | None = None


async def list_providers(*, as_json: bool) -> int:
    """List all providers; the exit code, which is 0 whatever they need."""
    found = [look_at(name) for name in providers.names()]
    if as_json:
        sys.stdout.write(_json(found) + "\n")
        return 0
    console = make_console()
    console.print(_table(found))
    notes = [(backend.name, note) for backend in found for note in _to_do(backend)]
    if notes:
        console.print()
    for name, note in notes:
        line = styled(f"{name:<10}", "bold").append(plain(note))
        console.print(line, soft_wrap=True)
    return 0


def look_at(name: str) -> Backend:
    """What there is to know of one; whatever is wrong with it is in the answer."""
    packages = sorted(
        {
            f"{entry.dist.name} {entry.dist.version}"
            for entry in entry_points(group="sandboxkit.providers", name=name)
            if entry.dist is not None
        }
    )
    try:
        plugin = providers.load(name)
        missing = plugin.missing()
        provider = plugin()
        return Backend(
            name,
            packages,
            missing,
            provider.credentials(),
            provider.capabilities(),
            plugin.interface_version,
        )
    except ProviderNotInstalledError as error:
        return Backend(name, packages, missing=error.message)
    except SandboxError as error:
        cause = error.__cause__  # what the import itself raised, where that is what failed
        return Backend(name, packages, error=_shown(cause) if cause else error.message)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        return Backend(name, packages, error=_shown(error))


def _shown(error: BaseException) -> str:
    return f"it is broken: {type(error).__name__}: {error}"


_NETWORKS: Final[Mapping[str, frozenset[str]]] = {
    "none": frozenset({"none"}),
    "list of hosts": frozenset({"none"}),  # what is on it, is reached through the gateway
    "open": frozenset({"open"}),
}


def in_words(can: Capabilities) -> str:
    """What a backend can do, in plain words."""
    return "; ".join(_words(can))


def _words(can: Capabilities) -> Iterator[str]:
    yield _WALLS[can.isolation]
    limits = [name.removesuffix("_gib") for name in sorted(can.limits | can.limits_at_create)]
    yield f"limits {', '.join(limits)}" if limits else "no limits"
    modes = [name for name, there in _NETWORKS.items() if there <= can.network]
    yield f"network {', '.join(modes)}" if modes else "no network modes"
    yield from (words for flag, words in _FLAGS.items() if getattr(can, flag))
    if can.creates_per_s is not None:
        yield f"creates {can.creates_per_s:g} a second"
    if can.concurrent is not None:
        yield f"{can.concurrent} at once"


def _table(found: Sequence[Backend]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("NAME", "INSTALLED", "CREDENTIALS", "CAN", "FROM"):
        table.add_column(column, no_wrap=column in {"NAME", "INSTALLED"}, overflow="fold")
    for backend in found:
        can = backend.capabilities
        source = " and ".join(backend.packages)
        if backend.interface_version is not None:
            source += f", interface {backend.interface_version}"
        table.add_row(
            styled(backend.name),
            *_state(backend),
            styled("" if can is None else in_words(can)),
            styled(source),
        )
    return table


def _state(backend: Backend) -> tuple[Any, Any]:
    if backend.error is not None:
        return styled("broken", "red"), styled("")
    installed = styled("no", "yellow") if backend.missing else styled("yes", "green")
    known = backend.credentials
    if known is None:
        return installed, styled("")
    return installed, styled(known.said, "green") if known.found else styled("missing", "yellow")


def _to_do(backend: Backend) -> Iterator[str]:
    if backend.error is not None:
        yield backend.error
    if backend.missing is not None:
        yield backend.missing
    if backend.credentials is not None and not backend.credentials.found:
        yield backend.credentials.said


def _json(found: Sequence[Backend]) -> str:
    listed = [{**asdict(backend), "packages": list(backend.packages)} for backend in found]
    whole = {"interface_version": INTERFACE_VERSION, "providers": listed}
    return json.dumps(whole, indent=2, default=sorted)
