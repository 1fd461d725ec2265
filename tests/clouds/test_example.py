"""One program, run on every backend with one word changed: the same output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from tests.clouds.conftest import Backend

EXAMPLE = Path(__file__).parents[2] / "examples" / "any_backend.py"
SAYS = """\
3
4 words, the longest is everywhere

a word on stderr
True before
STREAMS IN BOTH DIRECTIONS
 0
"""


async def test_the_example_says_the_same_everywhere(backend: Backend) -> None:
    with anyio.fail_after(110):
        done = await anyio.run_process(
            [sys.executable, "-W", "error", EXAMPLE, backend.name], check=False, env=os.environ
        )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout.decode() == SAYS
    assert await backend.alive() == set()
