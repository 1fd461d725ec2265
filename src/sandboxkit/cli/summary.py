"""The closing table: turns, tokens, cost, and where the time went."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from sandboxkit.cli.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from sandboxkit.agents.base import RunResult

_BAR = 28  # characters


@dataclass(slots=True)
class Phases:
    """Seconds that the parts of a run took, beside the agent's own.

    Attributes:
        prepare: Until the sandbox could be created: imports, an image the first time.
        create: The creation of the sandbox.
        connect: The start of the agent.
        close: The end of both.
        total: All of it, on the wall.
        began: When, on the monotonic clock.
    """

    prepare: float = 0.0
    create: float = 0.0
    connect: float = 0.0
    close: float = 0.0
    total: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def end(self) -> None:
        """Note the total."""
        self.total = self.passed()


def print_summary(
    console: Console, result: RunResult, phases: Phases, *, cost_note: str = ""
) -> None:
    """Print the table.

    Args:
        console: Where.
        result: What became of the prompt.
        phases: Where the rest of the time went.
        cost_note: What to say beside the cost.
    """
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(result, cost_note):
        facts.add_row(Text(f"  {name}", "bold"), value)
    console.print()
    console.print(facts)
    console.print()
    times = Table.grid(padding=(0, 2))
    times.add_column()
    times.add_column(justify="right")
    rows = list(_times(result, phases))
    longest = max(seconds for _, seconds, _ in rows) or 1.0
    for name, seconds, note in rows:
        bar = "━" * round(_BAR * seconds / longest)
        times.add_row(f"  {name}", f"{seconds:.2f} s", Text(bar, "cyan").append(note, "dim"))
    times.add_row(Text("  total", "bold"), Text(f"{phases.total:.2f} s", "bold"), "")
    console.print(times)


def _facts(result: RunResult, cost_note: str) -> Iterator[tuple[str, Text]]:
    usage, cost = result.usage, result.cost_usd
    ended = "" if result.stop_reason == "end_turn" else f"  ended by: {result.stop_reason}"
    yield "turns", Text(f"{result.turns}").append(plain(ended), "yellow")
    yield (
        "tokens",
        Text(
            f"{usage.input_tokens:,} in, {usage.output_tokens:,} out, cache: "
            f"{usage.cache_read_tokens:,} read, {usage.cache_creation_tokens:,} written"
        ),
    )
    reported = "not reported" if cost is None else f"${cost:.4f}, as the agent reports it"
    yield "cost", Text(reported).append(f"  {cost_note}" if cost_note else "", "dim")


def _times(result: RunResult, phases: Phases) -> Iterator[tuple[str, float, str]]:
    latency = result.latency
    yield "prepare", phases.prepare, " image and CLI"
    yield "create", phases.create, " sandbox"
    yield "connect", phases.connect, " agent"
    yield "first token", latency.model_wait_s, " of all requests"
    yield "model", latency.generation_s, " from there to the end"
    if latency.queue_s:
        yield "queue", latency.queue_s, " budgets, and requests that failed"
    yield "tools", latency.tools_s, ""
    yield "agent", latency.machine_s + latency.other_s, " the rest of the turns"
    yield "close", phases.close, " sandbox and agent"
