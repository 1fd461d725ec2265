"""Hybrid: the machine goes; conversation and files go on another day, also elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.program import Example

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(300)]


async def test_the_research_goes_on_the_next_day(tmp_path: Path) -> None:
    example = Example("hybrid_research", tmp_path)
    first = await example.run()
    assert "that is open" in first[0]
    word, session = first[1].split()
    assert word == "session"
    assert first[2:] == [f"{session} saved on docker with 5 files"]
    assert await example.alive() == set()

    await second_day(example, session, "docker")
    assert await example.alive() == set()


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("e2b")
async def test_the_research_goes_on_at_another_backend(tmp_path: Path) -> None:
    example = Example("hybrid_research", tmp_path)
    session = (await example.run())[1].split()[1]
    await second_day(example, session, "e2b", "e2b")


async def second_day(example: Example, session: str, backend: str, *word: str) -> None:
    lines = await example.run(session, *word)
    assert lines[:2] == [f"on {backend}", "calls Bash"]
    assert "- 1871, Anna: it is of stone, and old." in lines  # of the first day
    assert lines[-1] == f"{session} saved on {backend} with 5 files"
    assert lines.index("# Conclusion") > lines.index("# What the letters say of the bridge")
