"""What is printed, and how progress is shown."""

from __future__ import annotations

import io
import unicodedata

import pytest
from rich.console import Console

from sandboxkit.cli.flow import Flow
from sandboxkit.cli.steps import Steps
from sandboxkit.cli.terminal import plain
from sandboxkit.progress import Progress, report


def test_no_control_character_stays() -> None:
    everything = "".join(map(chr, range(0x11000)))
    left = {char for char in plain(everything) if unicodedata.category(char) in {"Cc", "Cs"}}
    assert left == {"\n", "\t"}
    plain(everything).encode()
    assert not {"\u202e", "\u2066", "\u200f"} & set(plain(everything))
    assert plain("a\r\nb\x1b[1m\x7f\N{WAVING HAND SIGN}é") == "a\nb␛[1m␡\N{WAVING HAND SIGN}é"


def console(*, terminal: bool, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, _environ={})


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_steps_elsewhere_than_on_a_terminal() -> None:
    plain_console = console(terminal=False)
    with Steps(plain_console):
        for done in (None, 10, 2_000_000):
            report(Progress("pull an\x1bimage", done, 4_000_000))
        report(Progress("pull an\x1bimage", 4_000_000, 4_000_000, finished=True))
    report(Progress("afterwards"))
    first, last = written(plain_console).splitlines()
    assert first == "  … Pull an␛image"
    assert last.startswith("  ✓ Pull an␛image  0.")


def test_steps_on_a_terminal() -> None:
    terminal = console(terminal=True)
    with Steps(terminal):
        report(Progress("build the image"))
        report(Progress("now this"))
        report(Progress("now that"))
        report(Progress("upload", 1_000_000, 4_000_000))
        report(Progress("import", finished=True))  # a line, and the bars below it anew
        report(Progress("build the image", finished=True))
    shown = written(terminal)
    assert "1.0 MB of 4.0 MB" in shown
    assert "Now that" in shown
    assert "✓ " in shown
    last = shown.rsplit("Build the image", 1)[1]
    assert "Now that" not in last  # what was being done has ended with it


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_text_in_pieces_is_wrapped_between_words(cut: int) -> None:
    text = "The quick brown fox jumps over it.\n    indented\n\nThe end"
    terminal = console(terminal=True, width=12)
    flow = Flow(terminal, "")
    for start in range(0, len(text), cut):
        flow.write(text[start : start + cut])
    flow.end()
    lines = [line.rstrip() for line in written(terminal).split("\n")]
    assert lines == [
        *["The quick", "brown fox", "jumps over", "it."],
        *["    indented", "", "The end", ""],
    ]
