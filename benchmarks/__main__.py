"""Run the benchmarks, print a table, and write JSON if asked."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import (
    agent,
    bulk,
    clouds,
    commands,
    crowd,
    egress,
    gateway,
    importing,
    lifecycle,
    pool,
)
from benchmarks.measure import Row

Benchmark = Callable[[int], Awaitable[list[Row]]]

# Each with its rounds.
BENCHMARKS: dict[str, tuple[Benchmark, int]] = {
    "commands": (commands.measure, 200),
    "bulk": (bulk.measure, 5),
    "egress": (egress.measure, 5),
    "lifecycle": (lifecycle.measure, 12),
    "pool": (pool.measure, 12),
    "crowd": (crowd.measure, 9),
    "agent": (agent.measure, 15),
    "gateway": (gateway.measure, 40),
    "clouds": (clouds.measure, 20),
    "import": (importing.measure, 9),
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; none is all")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    rows = asyncio.run(run(arguments.names or list(BENCHMARKS)))
    Console(width=130).print(table(rows))
    if arguments.json is not None:
        figures = [{**asdict(row), "ratio": row.ratio} for row in rows]
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": machine, "rows": figures}, indent=1))


async def run(names: list[str]) -> list[Row]:
    """The rows of the named benchmarks."""
    rows: list[Row] = []
    for name in names:
        measure, rounds = BENCHMARKS[name]
        rows += await measure(rounds)
    return rows


def table(rows: list[Row]) -> Table:
    """The rows for a person."""
    drawn = Table(title="sandboxkit, medians of one run")
    for heading in ("what", "ours", "p95", "beside", "that", "ratio", "target", ""):
        drawn.add_column(heading, justify="right" if heading in {"ours", "p95", "that"} else "left")
    for row in rows:
        drawn.add_row(
            row.what,
            f"{row.value:.4g} {row.unit}",
            f"{row.p95:.4g}" if row.p95 is not None else "",
            row.beside,
            f"{row.reference:.4g} {row.unit}" if row.reference is not None else "",
            f"{row.ratio:.2f}" if row.ratio is not None else "",
            row.target,
            {True: "reached", False: "missed", None: ""}[row.met],
        )
    return drawn


if __name__ == "__main__":
    main()
