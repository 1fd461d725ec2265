"""Ephemeral: a repository whose tests fail goes in, a diff comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.program import Example

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(300)]


async def test_the_diff_comes_out_and_the_sandbox_is_gone(tmp_path: Path) -> None:
    example = Example("ephemeral_bug_fix", tmp_path)
    lines = await example.run()
    assert lines[0].startswith("sandbox ")
    assert "The tests say: OK" in lines[1]
    assert "-    return sum(prices) * (1 - discount_percent / 10)" in lines
    assert "+    return sum(prices) * (1 - discount_percent / 100)" in lines
    assert [line for line in lines if line.startswith("diff ")] == [
        "diff --git a/prices.py b/prices.py"
    ]
    assert await example.alive() == set()


async def test_a_repository_whose_tests_pass_is_left_as_it_is(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "test_fine.py").write_text(
        "import unittest\n\nclass T(unittest.TestCase):\n    def test(self): pass\n"
    )
    example = Example("ephemeral_bug_fix", tmp_path)
    lines = await example.run(str(repository))
    assert lines[1:] == [""]
    assert await example.alive() == set()
