"""The page that tells which provider keeps which promise, from the runs of the kit.

`python -m tests.conformance.matrix docs/conformance.md docker.json e2b.json ...`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

PROVIDERS = ("docker", "e2b", "modal", "daytona")
HEAD = """\
# Conformance

Which backend keeps which promise. This page is written by a run of the
[conformance kit](testing.md#the-conformance-kit), the same tests for all
(`nox -s matrix`): Docker on a real engine; E2B, Modal and Daytona by their unmodified SDKs, over
the wire, against the emulators of `tests/emulators`.

"yes": the promise is kept. "refused": the backend cannot do it, says so with a typed error
before anything is made, and the note has its words. "no": it is not kept, and the note says why:
the backend *cannot*, or sandboxkit does *not yet*.
"""


class Outcome(NamedTuple):
    word: str
    reason: str


def main(target: str, *sources: str) -> None:
    """Write the page."""
    promises: dict[str, str] = {}
    subjects: dict[str, str] = {}
    outcomes: dict[str, dict[str, Outcome]] = {}
    for source in sources:
        run = json.loads(Path(source).read_text("utf-8"))
        promises |= run["promises"]
        subjects |= run["subjects"]
        for file, found in run["outcomes"].items():
            provider = Path(file).stem.removeprefix("test_")
            if provider in PROVIDERS:
                outcomes[provider] = {name: read(said) for name, said in found.items()}
    missing = [
        f"{provider}: {name}"
        for provider in PROVIDERS
        for name in promises
        if name not in outcomes.get(provider, {})
    ]
    if missing:
        sys.exit("no outcome of " + ", ".join(missing))
    page = "\n".join([HEAD, *summary(subjects, outcomes), *details(promises, subjects, outcomes)])
    Path(target).write_text(page + "\n", encoding="utf-8")


def read(said: str) -> Outcome:
    word, _, reason = said.partition(": ")
    words = {"passed": "yes", "refused": "refused", "differs": "no"}
    if word not in words:
        sys.exit(f"a promise has {word}: the matrix is written from a run without failures")
    return Outcome(words[word], reason)


def summary(
    subjects: Mapping[str, str], outcomes: Mapping[str, Mapping[str, Outcome]]
) -> Iterable[str]:
    """Providers down, subjects across: how many of the promises are kept."""
    names = list(dict.fromkeys(subjects.values()))
    yield "| | " + " | ".join(f"[{name}](#{name})" for name in names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for provider in PROVIDERS:
        cells: list[str] = []
        for name in names:
            found = [outcomes[provider][each] for each in subjects if subjects[each] == name]
            kept = sum(outcome.word == "yes" for outcome in found)
            refused = sum(outcome.word == "refused" for outcome in found)
            cells.append(f"{kept}/{len(found)}" + (f", {refused} refused" if refused else ""))
        yield f"| **{provider}** | " + " | ".join(cells) + " |"


def details(
    promises: Mapping[str, str],
    subjects: Mapping[str, str],
    outcomes: Mapping[str, Mapping[str, Outcome]],
) -> Iterable[str]:
    """Each promise, with a note for whatever is not a plain yes."""
    for subject in dict.fromkeys(subjects.values()):
        notes: list[str] = []
        yield f"\n## {subject}\n"
        yield "| promise | " + " | ".join(PROVIDERS) + " |"
        yield "|---" * (len(PROVIDERS) + 1) + "|"
        for name, sentence in promises.items():
            if subjects[name] != subject:
                continue
            cells: list[str] = []
            for provider in PROVIDERS:
                outcome = outcomes[provider][name]
                cell = outcome.word
                if outcome.word != "yes":
                    note = f"{provider}: {outcome.reason}"
                    if note not in notes:
                        notes.append(note)
                    cell += f" ({notes.index(note) + 1})"
                cells.append(cell)
            yield f"| {escaped(sentence)} | " + " | ".join(cells) + " |"
        if notes:
            yield ""
            yield from (f"{number}. {escaped(note)}" for number, note in enumerate(notes, 1))


def escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main(*sys.argv[1:])
