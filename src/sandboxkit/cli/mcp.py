"""`sandboxkit mcp`: a sandbox's tools for any MCP client, over stdin and stdout."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandboxkit.admission import admit
from sandboxkit.cli.terminal import plain
from sandboxkit.errors import ProviderNotInstalledError
from sandboxkit.providers.registry import providers
from sandboxkit.sandbox import Sandbox

if TYPE_CHECKING:
    from sandboxkit.lifecycle import Opening
    from sandboxkit.providers.base import SandboxProvider
    from sandboxkit.spec import SandboxSpec

_log = logging.getLogger(__name__)

_OF_THE_EXTRA: Final = frozenset({"mcp", "mcp_types"})  # the second came with version 2


async def serve_mcp(
    *, provider: str, spec: SandboxSpec, sandbox_id: str | None, share: Path | None
) -> int:
    """Serve until the client closes stdin; the exit code.

    stdout is the protocol's alone; what happens is told on stderr.
    """
    _log_to_stderr()
    if sys.stdin.isatty():
        _log.warning("an MCP client is to start this, not a person; Ctrl-C ends it")
    try:
        from sandboxkit.mcp.machine import Machine
        from sandboxkit.mcp.server import serve
        from sandboxkit.mcp.share import Share
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OF_THE_EXTRA:
            raise
        raise ProviderNotInstalledError(
            f"this needs the package 'mcp', version 2: "
            f'{sys.executable} -m pip install "sandboxkit[mcp]"'
        ) from None
    backend = providers.make(provider)

    def opening() -> Opening[Sandbox]:
        if sandbox_id is not None:
            return Sandbox.attach(backend, sandbox_id)
        return Sandbox.create(backend, spec=spec)

    try:
        if sandbox_id is None:
            admit(spec, backend.capabilities(), backend.name)  # to refuse at once
        await serve(
            Machine(opening, attached=sandbox_id is not None),
            instructions=_instructions(backend, spec, sandbox_id),
            open_world=sandbox_id is not None or spec.network.mode != "none",
            share=None if share is None else Share(share),
        )
    finally:
        await backend.aclose()
    return 0


def _instructions(backend: SandboxProvider, spec: SandboxSpec, sandbox_id: str | None) -> str:
    what = (
        f"the sandbox {sandbox_id} at {backend.name}"
        if sandbox_id is not None
        else f"a sandbox at {backend.name}: a Linux machine of its own, apart from the user's. It "
        "starts empty when a tool first needs it, and is destroyed with all that is in it when "
        "the client ends"
    )
    network = {
        "none": " It has no network.",
        "open": " It has a network.",
        "allow": f" Of the network it reaches only: {', '.join(spec.network.hosts) or 'nothing'}.",
    }[spec.network.mode]
    return (
        f"These tools work in {what}.{network if sandbox_id is None else ''} Paths are paths in "
        "the sandbox; relative ones start at its work directory."
    )


class _Plain(logging.Formatter):
    """Lines that cannot drive a terminal, whatever a sandbox has put into them."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("sandboxkit: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("sandboxkit.mcp").setLevel(logging.INFO)
