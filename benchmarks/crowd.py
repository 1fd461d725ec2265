"""Ten sandboxes at once: commands a second, the event loop, and memory."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from pathlib import Path
from typing import Self

import sandboxkit as sk
from benchmarks.measure import Row

SANDBOXES = 10
COMMANDS = 20
_TICK_S = 0.001


async def measure(rounds: int) -> list[Row]:
    """All commands of all sandboxes at once, `rounds` times."""
    before = _resident_mb()
    async with contextlib.AsyncExitStack() as stack:
        sandboxes = [
            await stack.enter_async_context(sk.Sandbox.create("docker")) for _ in range(SANDBOXES)
        ]
        await asyncio.gather(*(sandbox.exec(["true"]) for sandbox in sandboxes))
        grown = (_resident_mb() - before) / SANDBOXES
        rates: list[float] = []
        blocks: list[float] = []
        async with _Ticker() as ticker:
            for _ in range(rounds):
                ticker.longest_s = 0.0
                began = time.perf_counter()
                await asyncio.gather(
                    *(box.exec(["true"]) for box in sandboxes for _ in range(COMMANDS))
                )
                rates.append(SANDBOXES * COMMANDS / (time.perf_counter() - began))
                blocks.append(ticker.longest_s * 1e3)
    # Medians: a machine that does other things now and then takes the processor away.
    rate, longest = statistics.median(rates), statistics.median(blocks)
    return [
        Row("10 sandboxes, 20 commands each, at once", rate, "commands/s",
            target="at least 400", met=rate >= 400),
        Row("the event loop's longest block meanwhile", longest, "ms",
            target="under 20 ms", met=longest < 20),
        Row("host memory of one sandbox", grown, "MB", target="at most 2 MB", met=grown <= 2),
    ]  # fmt: skip


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class _Ticker:
    """Wakes up all the time, and notes how late it came at most."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            self.longest_s = max(self.longest_s, time.perf_counter() - began - _TICK_S)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
