"""`sandboxkit doctor`: does it work here, and if not, what to do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from sandboxkit.cli.checks import Check, check_machine, claude_code
from sandboxkit.cli.docker_checks import check_engine
from sandboxkit.cli.outcome import FAILED
from sandboxkit.cli.sandbox_checks import check_a_sandbox, check_account
from sandboxkit.cli.setup import bring_engine_up
from sandboxkit.cli.steps import Steps
from sandboxkit.cli.terminal import make_console, plain, styled
from sandboxkit.errors import SandboxError

if TYPE_CHECKING:
    from rich.console import Console

    from sandboxkit.spec import Artifact

_MARKS: Final = {"ok": ("✓ ok  ", "green"), "warn": ("! warn", "yellow"), "fail": ("✗ fail", "red")}


async def doctor(*, provider: str, setup: bool) -> int:
    """Look at everything that a run needs; the exit code.

    Args:
        provider: The backend.
        setup: Whether to bring up a Docker engine where none runs.
    """
    console = make_console()
    failures = await _print(console, check_machine(agents_matter=provider == "docker"))
    if setup:
        await bring_engine_up(console, provider)
    unusable = await _print(console, _checks_of(provider))
    if not unusable:
        with Steps(console) as steps, steps.step("trying a sandbox"):
            artifacts = await _artifacts(provider)
            failures += await _print(console, check_a_sandbox(provider, artifacts))
    failures += unusable
    console.print()
    if failures:
        console.print(styled(f"{failures} of the checks failed.", "bold red"))
        return FAILED
    works = "Agents can run here." if provider == "docker" else f"{provider} works."
    console.print(styled(works, "bold green"))
    return 0


def _checks_of(provider: str) -> AsyncIterator[Check]:
    return check_engine() if provider == "docker" else check_account(provider)


async def _artifacts(provider: str) -> list[Artifact]:
    """The CLI, where that costs no upload into somebody's account."""
    if provider != "docker":
        return []
    with contextlib.suppress(SandboxError):  # it was among the findings on the machine
        return [await claude_code()]
    return []


async def _print(console: Console, checks: AsyncIterator[Check]) -> int:
    """Print the findings as they come; how many of them failed."""
    failures = 0
    async for check in checks:
        failures += check.state == "fail"
        mark, style = _MARKS[check.state]
        line = styled(f"{mark}  ", style).append(f"{check.name:<16}", "bold")
        console.print(line.append(plain(check.found)), soft_wrap=True)
        if check.advice:
            console.print(styled(f"{'':<24}{check.advice}", "dim"), soft_wrap=True)
    return failures
