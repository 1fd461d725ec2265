"""Long-running: a second run of the program finds the session alive, and goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxkit.sandbox import Sandbox
from tests.examples.program import Example

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(300)]


async def test_a_second_run_finds_the_site_and_changes_it(tmp_path: Path) -> None:
    example = Example("long_running_site_builder", tmp_path)
    try:
        first = await example.run()
        word, machine = first[0].split()
        assert word == "made"
        assert first[1] == "The site is up on port 8000; it answers <h1>Bees</h1>"
        assert "<h1>Bees</h1>" in first[3:]
        assert await example.alive() == {machine}
        async with Sandbox.attach("docker", machine) as sandbox:  # no program of it runs now
            served = await sandbox.exec(["curl", "-s", "http://127.0.0.1:8000/"])
            assert "<h1>Bees</h1>" in served.text

        second = await example.run()
        assert second[0] == f"found {machine}"
        assert second[1] == "Yes: <h1>The life of bees</h1>"
        assert "<h1>The life of bees</h1>" in second[3:]
        assert await example.alive() == {machine}
    finally:
        assert await example.run("--end") == []
    assert await example.alive() == set()
