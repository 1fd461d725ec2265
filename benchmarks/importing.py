"""What `import sandboxkit` costs."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys

from benchmarks.measure import Row

_SCRIPT = (
    "import time; began = time.perf_counter(); import sandboxkit; "
    "print(time.perf_counter() - began)"
)


async def measure(rounds: int) -> list[Row]:
    """In a fresh interpreter each time, its own start not counted."""
    taken = [await asyncio.to_thread(_once) for _ in range(rounds)]
    median = statistics.median(taken) * 1e3
    return [Row("import sandboxkit", median, "ms", target="under 100 ms", met=median < 100)]


def _once() -> float:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], check=True, capture_output=True)
    return float(done.stdout)
