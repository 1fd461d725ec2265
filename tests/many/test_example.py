"""The example of many at once."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "many.py"
SAYS = [
    "broken -> ZeroDivisionError: division by zero",
    "curious -> ['program.py'] nightly",
    "greedy -> took too long",
    "primes -> [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]",
]


@pytest.mark.usefixtures("engine")
async def test_the_example_runs() -> None:
    with anyio.fail_after(90):
        done = await anyio.run_process([sys.executable, "-W", "error", EXAMPLE], check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    lines = done.stdout.decode().splitlines()
    assert (sorted(lines[:4]), lines[4]) == (SAYS, "0 resumed in the first run")
    assert (sorted(lines[5:9]), lines[9]) == (SAYS, "4 resumed in the second run")
