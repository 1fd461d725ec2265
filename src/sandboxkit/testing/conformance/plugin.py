"""What pytest must do for the kit: guard the promises, apply differences, write the matrix.

It is registered by the import of the kit (`pytest_plugins`), in whichever test file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from sandboxkit.testing.conformance.differences import KnownDifference
from sandboxkit.testing.conformance.promise import PROMISES, take_refusals

MATRIX_VARIABLE = "SANDBOXKIT_CONFORMANCE_JSON"
"""Names a file that gets every promise's outcome, by test file; nothing is written without."""

_WORSE = ("passed", "refused", "differs")  # anything else is worse still
_outcomes: dict[str, dict[str, list[str]]] = {}  # by file and promise, of each of its cases


def _rank(outcome: str) -> int:
    word = outcome.partition(":")[0]
    return _WORSE.index(word) if word in _WORSE else len(_WORSE)


def _summary(cases: Iterable[str]) -> str:
    """The outcome of a promise: its worst case; of refusals, all, one a line."""
    seen = sorted(dict.fromkeys(cases), key=_rank)
    worst, word = seen[-1], "refused: "
    if not worst.startswith(word):
        return worst
    refusals = [case.removeprefix(word) for case in seen if case.startswith(word)]
    return ("partly " if "passed" in seen else "") + word + "\n".join(refusals)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a file that has quietly replaced a promise; expect its known differences."""
    whole: dict[ModuleType, dict[str, KnownDifference]] = {}
    for item in items:
        module = getattr(item, "module", None)
        if not isinstance(module, ModuleType) or not hasattr(module, "conformance_kit"):
            continue
        if module not in whole:
            _check_whole(module)
            whole[module] = _differences(module)
        known = whole[module].get(getattr(item, "originalname", ""))
        if known is not None:
            reason = f"{known.why}: {known.reason}"
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _check_whole(module: ModuleType) -> None:
    for name, promise in PROMISES.items():
        if getattr(module, name, None) is not promise:
            raise pytest.UsageError(
                f"{module.__name__} replaces the conformance test {name}. Give yours another "
                f"name; a promise that is not kept belongs in known_differences: "
                f'cannot("{name}", "why")'
            )


def _differences(module: ModuleType) -> dict[str, KnownDifference]:
    listed = cast("Iterable[KnownDifference]", getattr(module, "known_differences", ()))
    return {known.promise: known for known in listed}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a promise ended."""
    file, _, rest = report.nodeid.partition("::")
    name = rest.partition("[")[0]
    if name not in PROMISES or (report.when != "call" and report.outcome == "passed"):
        return
    refusals = take_refusals()
    if hasattr(report, "wasxfail"):
        outcome = f"differs: {report.wasxfail}"
    elif report.outcome == "passed" and refusals:
        outcome = f"refused: {refusals[0]}"
    else:
        outcome = report.outcome
    _outcomes.setdefault(file, {}).setdefault(name, []).append(outcome)


def pytest_sessionfinish() -> None:
    """Write the matrix, if asked to."""
    target = os.environ.get(MATRIX_VARIABLE)
    if target and _outcomes:
        sentences = {name: (test.__doc__ or "").strip() for name, test in PROMISES.items()}
        subjects = {name: test.__module__.rpartition(".")[2] for name, test in PROMISES.items()}
        outcomes = {
            file: {name: _summary(cases) for name, cases in found.items()}
            for file, found in _outcomes.items()
        }
        matrix = {"promises": sentences, "subjects": subjects, "outcomes": outcomes}
        Path(target).write_text(json.dumps(matrix, indent=2) + "\n", encoding="utf-8")
