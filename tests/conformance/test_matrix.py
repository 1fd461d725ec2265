"""The page of conformance: nothing is left out, and nothing that is refused lacks its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance import matrix

PROMISE = "test_a_limit_is_kept"
REFUSAL = "resources.pids=100 cannot be had: modal enforces cpu, not pids; strict=False takes less"


class Page:
    """Writes the page of one promise.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, **outcomes: str) -> str:
        """The page, with "passed" for those backends that are not named."""
        sources: list[str] = []
        for name, outcome in (dict.fromkeys(matrix.PROVIDERS, "passed") | outcomes).items():
            run = {
                "promises": {PROMISE: "No more than | the limit."},
                "subjects": {PROMISE: "capabilities"},
                "outcomes": {f"somewhere/test_{name}.py": {PROMISE: outcome} if outcome else {}},
            }
            source = self._folder / f"{name}.json"
            source.write_text(json.dumps(run))
            sources.append(str(source))
        target = self._folder / "page.md"
        matrix.main(str(target), *sources)
        return target.read_text("utf-8")


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


def row_of(page: str) -> str:
    return next(line for line in page.splitlines() if line.startswith("| **A limit is kept.**"))


def test_each_backend_has_its_mark(page: Page) -> None:
    row = row_of(page.of())
    assert row == "| **A limit is kept.** No more than \\| the limit. | ✓ | ✓ | ✓ | ✓ |"


def test_what_is_refused_has_its_reason(page: Page) -> None:
    written = page.of(
        modal=f"refused: {REFUSAL}\nmodal cannot pause",
        daytona=f"partly refused: {REFUSAL}",
        e2b="differs: not_yet: nobody has done it",
    )
    cells = [cell.split() for cell in row_of(written).split(" | ")]
    assert [cell[0] for cell in cells[-4:]] == ["✓", "✗", "○", "◐"]
    assert "| e2b | `test_a_limit_is_kept` | not yet | nobody has done it |" in written
    assert "| modal | `pids` | cannot | Modal has no limit of processes. |" in written
    assert "| modal | `pause` | cannot |" in written


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("failed", "without failures"),
        ("", f"no outcome of modal: {PROMISE}"),
        ("refused: modal cannot dance", "modal refuses dance: say why"),
    ],
)
def test_a_run_with_a_hole_makes_no_page(page: Page, outcome: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        page.of(modal=outcome)
