"""The page that tells which provider keeps which promise, from the runs of the kit.

`python -m tests.conformance.matrix docs/conformance.md docker.json e2b.json ...`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.conformance.reasons import REASONS, refused_in

PROVIDERS = ("docker", "e2b", "modal", "daytona")
KEPT, PARTLY, REFUSED, BROKEN = "✓", "◐", "○", "✗"
SUBJECTS = {
    "lifecycle": "Creating, listing and ending",
    "leases": "A sandbox without its host",
    "capabilities": "Limits, network and images",
    "starting": "Starting commands",
    "spawned": "Processes",
    "output": "Output",
    "endings": "Time-outs and cancellation",
    "detached": "Processes that outlive their host",
    "terminals": "Terminals",
    "files": "Files",
    "paths": "Paths",
    "trees": "Whole trees of files",
    "connection": "Connections that break",
    "ports": "Ports",
    "exposed": "Public addresses",
    "pauses": "Pausing",
    "snapshots": "Snapshots",
    "verbs": "The provider's own verbs",
}
"""The parts of the kit, in the order of the page, and what a person calls them."""

HEAD = """\
# Conformance

Which backend keeps which promise, by a run of the
[conformance kit](testing.md#the-conformance-kit), the same tests for all: Docker on a real
engine; E2B, Modal and Daytona by their unmodified SDKs, over the wire, against the emulators
of `tests/emulators`. `nox -s matrix` writes this page.

| mark | meaning |
|---|---|
| ✓ | kept |
| ○ | the backend does not claim it, and refuses it: `UnsupportedError`, and nothing is made |
| ◐ | kept in what the backend claims, refused in the rest |
| ✗ | not kept |

The numbers lead to the [reasons](#what-is-not-had-and-why).

## At a glance

"10, 3 ○" is ten promises kept and three refused.
"""


class Outcome(NamedTuple):
    """How a promise ended: its mark, and the number of each reason."""

    mark: str
    notes: tuple[int, ...] = ()

    def __str__(self) -> str:
        links = (f"[{note}](#what-is-not-had-and-why)" for note in self.notes)
        return self.mark + (f" <sup>{', '.join(links)}</sup>" if self.notes else "")


Outcomes = Mapping[str, Mapping[str, Outcome]]


class Notes:
    """The reasons that were given, numbered; each once."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str, str], list[str]] = {}

    def number(self, provider: str, what: str, why: str, sentence: str) -> int:
        """The number of a reason."""
        key = (provider, why, sentence)
        about = self._given.setdefault(key, [])
        if what not in about:
            about.append(what)
        return list(self._given).index(key) + 1

    def rows(self) -> Iterable[str]:
        """The reasons, as rows of a table."""
        for number, ((provider, why, sentence), about) in enumerate(self._given.items(), 1):
            what = ", ".join(f"`{each}`" for each in about)
            yield f"| {number} | {provider} | {what} | {why} | {escaped(sentence)} |"


def main(target: str, *sources: str) -> None:
    """Write the page."""
    promises: dict[str, str] = {}
    subjects: dict[str, str] = {}
    said: dict[str, dict[str, str]] = {}
    for source in sources:
        run = json.loads(Path(source).read_text("utf-8"))
        promises |= run["promises"]
        subjects |= run["subjects"]
        for file, found in run["outcomes"].items():
            said[Path(file).stem.removeprefix("test_")] = found
    missing = [
        f"{provider}: {name}"
        for provider in PROVIDERS
        for name in promises
        if name not in said.get(provider, {})
    ]
    if missing:
        sys.exit("no outcome of " + ", ".join(missing))
    order = list(SUBJECTS)
    promises = dict(sorted(promises.items(), key=lambda each: order.index(subjects[each[0]])))
    notes = Notes()
    outcomes = {
        provider: {name: read(provider, name, said[provider][name], notes) for name in promises}
        for provider in PROVIDERS
    }
    parts = (glance(subjects, outcomes), reasons(notes), details(promises, subjects, outcomes))
    Path(target).write_text(
        "\n".join([HEAD, *(line for part in parts for line in part)]) + "\n", encoding="utf-8"
    )


def read(provider: str, name: str, said: str, notes: Notes) -> Outcome:
    """The outcome of a promise, as the kit wrote it.

    Exits where a promise has failed, or where a refusal has no reason.
    """
    word, _, rest = said.partition(": ")
    if word == "passed":
        return Outcome(KEPT)
    if word == "differs":  # a known difference: its file says why
        why, _, sentence = rest.partition(": ")
        number = notes.number(provider, name, why.replace("_", " "), sentence)
        return Outcome(BROKEN, (number,))
    if word not in {"refused", "partly refused"}:
        sys.exit(f"{provider}: {name} has {word}: the page is written from a run without failures")
    numbers: set[int] = set()
    for refusal in rest.splitlines():
        what = refused_in(refusal)
        reason = REASONS[provider].get(what)
        if reason is None:
            sys.exit(f"{provider} refuses {what}: say why in {refused_in.__module__}: {refusal}")
        numbers.add(notes.number(provider, what, *reason))
    return Outcome(REFUSED if word == "refused" else PARTLY, tuple(sorted(numbers)))


def glance(subjects: Mapping[str, str], outcomes: Outcomes) -> Iterable[str]:
    """How many promises of each subject are kept."""
    yield "| subject | " + " | ".join(PROVIDERS) + " |"
    yield "|---" * (len(PROVIDERS) + 1) + "|"
    for subject, title in SUBJECTS.items():
        cells: list[str] = []
        for provider in PROVIDERS:
            marks = [
                each.mark for name, each in outcomes[provider].items() if subjects[name] == subject
            ]
            counts = {mark: marks.count(mark) for mark in (REFUSED, BROKEN)}
            kept = len(marks) - sum(counts.values())
            words = [str(kept)] if kept else []
            cells.append(", ".join(words + [f"{n} {mark}" for mark, n in counts.items() if n]))
        yield f"| [{title}](#{anchor(title)}) | " + " | ".join(cells) + " |"


def reasons(notes: Notes) -> Iterable[str]:
    """Everything that is not kept."""
    yield "\n## What is not had, and why\n"
    yield "*cannot*: the backend has no such thing. *not yet*: sandboxkit makes no use of it.\n"
    yield "| | backend | what | | reason |"
    yield "|---|---|---|---|---|"
    yield from notes.rows()


def details(
    promises: Mapping[str, str], subjects: Mapping[str, str], outcomes: Outcomes
) -> Iterable[str]:
    """Each promise on each backend."""
    for subject, title in SUBJECTS.items():
        yield f"\n## {title}\n"
        yield "| promise | " + " | ".join(PROVIDERS) + " |"
        yield "|---|" + ":---:|" * len(PROVIDERS)
        for name, sentence in promises.items():
            if subjects[name] == subject:
                cells = (str(outcomes[provider][name]) for provider in PROVIDERS)
                named = name.removeprefix("test_").replace("_", " ").capitalize()
                yield f"| **{named}.** {escaped(sentence)} | " + " | ".join(cells) + " |"


def anchor(title: str) -> str:
    """Where MkDocs puts a heading."""
    return "".join(each for each in title.lower() if each.isalnum() or each in " -").replace(
        " ", "-"
    )


def escaped(text: str) -> str:
    """A sentence in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main(*sys.argv[1:])
