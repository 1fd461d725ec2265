"""The kit itself: it finds what is broken, and nothing else; and it guards its own rules."""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandboxkit.testing.conformance.plugin import MATRIX_VARIABLE
from sandboxkit.testing.conformance.promise import PROMISES

pytest_plugins = ("pytester",)

SOUND = (
    "test_arguments_are_never_joined_or_expanded",
    "test_stdin_is_exact_and_ends",
    "test_stdout_and_stderr_are_apart",
    "test_check_raises_with_the_whole_result",
    "test_kill_ends_the_whole_tree",
    "test_a_reader_never_sees_half_a_file",
    "test_a_tree_comes_back_as_it_went",
    "test_what_ended_during_a_break_is_told_after_it",
    "test_labels_choose_among_sandboxes",
    "test_a_destroyed_sandbox_is_gone",
    "test_disk_is_bounded",
)
"""A sample of the promises; each run has them, and what its defect shall break."""

LOOP_SCOPE = "asyncio_default_fixture_loop_scope=function"  # unset, pytest-asyncio 1.1 warns

FILE = """
import pytest
from sandboxkit.testing.conformance import *
from sandboxkit.testing.conformance import promise
from tests.conformance import broken

promise.WITHIN_S = 10  # what hangs is found sooner

@pytest.fixture
def provider():
    return broken.{defect}({host!r})
"""


@dataclass
class Kit:
    """Runs the kit in a directory of its own, as a third party would."""

    pytester: pytest.Pytester
    host: str

    def run(
        self, *promises: str, defect: str = "Broken", more: str = ""
    ) -> tuple[pytest.RunResult, dict[str, str]]:
        """The run, and the outcome of each promise."""
        self.pytester.makepyfile(test_it=FILE.format(defect=defect, host=self.host) + more)
        ids = [f"test_it.py::{name}" for name in promises] or ["test_it.py"]
        result = self.pytester.runpytest_subprocess("-o", LOOP_SCOPE, *ids)
        matrix = self.pytester.path / "matrix.json"
        if not matrix.exists():
            return result, {}
        outcomes: dict[str, str] = json.loads(matrix.read_text())["outcomes"]["test_it.py"]
        matrix.unlink()
        return result, outcomes


@pytest.fixture
def kit(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    engine: str,
) -> Kit:
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath), prepend=os.pathsep)
    monkeypatch.setenv(MATRIX_VARIABLE, str(pytester.path / "matrix.json"))
    return Kit(pytester, engine)


def test_a_sound_provider_keeps_every_promise(kit: Kit) -> None:
    _, outcomes = kit.run(*SOUND)
    assert set(outcomes) == set(SOUND)
    assert broken_in(outcomes) == set()


def broken_in(outcomes: dict[str, str]) -> set[str]:
    """The promises that are not kept; an engine without quotas keeps its own by refusing."""
    kept = ("passed", "refused: ", "partly refused: ")
    return {name for name, outcome in outcomes.items() if not outcome.startswith(kept)}


BREAKS = {
    "DropsEmptyArguments": {"test_arguments_are_never_joined_or_expanded"},
    "InventsExitCodeZero": {
        "test_check_raises_with_the_whole_result",
        "test_kill_ends_the_whole_tree",
        "test_what_ended_during_a_break_is_told_after_it",
    },
    "LosesBytesAtReconnect": {"test_what_ended_during_a_break_is_told_after_it"},
    "ListsWhateverThereIs": {"test_labels_choose_among_sandboxes"},
    "LeavesWhatItDestroys": {"test_a_destroyed_sandbox_is_gone"},
    "ClaimsALimit": {"test_disk_is_bounded"},
    "MergesStderrIntoStdout": {
        "test_stdout_and_stderr_are_apart",
        "test_check_raises_with_the_whole_result",
    },
    "DropsTheEndOfStdin": {"test_stdin_is_exact_and_ends"},
    "KillsTheLeaderAlone": {"test_kill_ends_the_whole_tree"},
    "NeverLosesItsHost": {"test_a_sandbox_without_its_host_ends_by_itself"},
}
"""The ways in which `broken.py` breaks the provider, and the promises that each breaks."""

SLOW = {"MergesStderrIntoStdout", "DropsTheEndOfStdin", "KillsTheLeaderAlone", "NeverLosesItsHost"}


@pytest.mark.parametrize(
    "defect",
    [pytest.param(each, marks=[pytest.mark.slow] if each in SLOW else []) for each in BREAKS],
)
def test_what_is_broken_is_found_and_nothing_else(kit: Kit, defect: str) -> None:
    promises = {*SOUND, *BREAKS[defect]}
    result, outcomes = kit.run(*promises, defect=defect)
    assert set(outcomes) == promises
    assert broken_in(outcomes) == BREAKS[defect], result.stdout.str()


def test_a_known_difference_must_be_one(kit: Kit) -> None:
    name = "test_labels_choose_among_sandboxes"
    known = f"\nknown_differences = [not_yet({name!r}, 'labels are not looked at')]\n"
    _, outcomes = kit.run(name, defect="ListsWhateverThereIs", more=known)
    assert outcomes == {name: "differs: not_yet: labels are not looked at"}
    result, outcomes = kit.run(name, more=known)
    assert outcomes == {name: "failed"}
    result.stdout.fnmatch_lines(["*XPASS(strict)*labels are not looked at*"])


def test_a_limit_that_is_refused_is_told_beside_those_that_are_kept(kit: Kit) -> None:
    name = "test_a_limit_is_applied_exactly_or_refused"
    _, outcomes = kit.run(name)
    told = "partly refused: resources.disk_gib="  # by an engine without quotas
    assert outcomes[name] == "passed" or outcomes[name].startswith(told)


@pytest.mark.parametrize("wrong", ["('test_no_such', 'why')", "('test_disk_is_bounded', ' ')"])
def test_a_known_difference_names_a_promise_and_a_reason(kit: Kit, wrong: str) -> None:
    result, _ = kit.run(more=f"\nknown_differences = [cannot{wrong}]\n")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*ValueError:*"])


@pytest.mark.parametrize(
    "more", ["\nasync def test_disk_is_bounded(): pass\n", "\ndel test_disk_is_bounded\n"]
)
def test_a_promise_cannot_be_replaced_in_silence(kit: Kit, more: str) -> None:
    result, outcomes = kit.run(more=more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert outcomes == {}
    result.stderr.fnmatch_lines(["*replaces the conformance test test_disk_is_bounded*"])


def test_a_provider_must_be_given(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("from sandboxkit.testing.conformance import *")
    result = pytester.runpytest_subprocess("-k", "test_disk_is_bounded")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*define the fixture `provider`*"])


@pytest.mark.parametrize("name", PROMISES)
def test_a_promise_is_a_sentence_and_short(name: str) -> None:
    promise = PROMISES[name]
    sentence = (promise.__doc__ or "").strip()
    assert sentence.endswith((".", ".)")), "the promise, in a sentence"
    assert len(inspect.getsource(promise).splitlines()) <= 45
    assert Path(inspect.getsourcefile(inspect.unwrap(promise)) or "").parent.name == "promises"
