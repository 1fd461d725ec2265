"""The documentation: each claim about security names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

from sandboxkit.testing.conformance.promise import PROMISES

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_security_claims_name_tests_that_are_there() -> None:
    there = set(PROMISES)
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= {file.stem, *re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))}
    named: set[str] = set(re.findall(r"\btest_\w+", SECURITY))
    assert len(named) > 30
    assert named - there == set()
