"""`sandboxkit doctor`: does it work here, and if not, what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from sandboxkit.cli.checks import Check, check_a_sandbox, check_machine
from sandboxkit.cli.docker_checks import check_engine
from sandboxkit.cli.outcome import FAILED
from sandboxkit.cli.setup import bring_engine_up
from sandboxkit.cli.steps import Steps
from sandboxkit.cli.terminal import make_console, plain, styled

if TYPE_CHECKING:
    from rich.console import Console

_MARKS: Final = {"ok": ("✓ ok  ", "green"), "warn": ("! warn", "yellow"), "fail": ("✗ fail", "red")}


async def doctor(*, provider: str, setup: bool) -> int:
    """Look at everything that a run needs; the exit code.

    Args:
        provider: The backend.
        setup: Whether to bring up a Docker engine where none runs.
    """
    console = make_console()
    failures = await _print(console, check_machine())
    if setup:
        await bring_engine_up(console, provider)
    if provider == "docker":
        failures += await _print(console, check_engine())
    if not failures:
        with Steps(console) as steps, steps.step("trying a sandbox"):
            failures += await _print(console, check_a_sandbox(provider))
    console.print()
    if failures:
        console.print(styled(f"{failures} of the checks failed.", "bold red"))
        return FAILED
    console.print(styled("Agents can run here.", "bold green"))
    return 0


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
