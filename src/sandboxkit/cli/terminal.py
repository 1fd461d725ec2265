"""What we print: plain text, whatever a sandbox would like the terminal to do."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console
from rich.text import Text

_SHOWN: Final = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),  # C1: U+009B alone starts an escape sequence
    **dict.fromkeys((0x061C, 0x200E, 0x200F), 0xFFFD),  # what turns the direction of writing
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),  # surrogates, which cannot be encoded
}


def plain(text: str) -> str:
    """The text with every control character made visible, but for newline and tab.

    Each character is judged alone, so that text may come in pieces cut anywhere.
    """
    return text.replace("\r\n", "\n").translate(_SHOWN)


def styled(text: object, style: str = "") -> Text:
    """Something for `Console.print`: made plain, and never read as markup."""
    return Text(plain(str(text)), style)


def make_console(*, stderr: bool = False) -> Console:
    """A console for our own words. Colours follow `NO_COLOR` and the kind of terminal."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def forgive_encoding() -> None:
    """Print `?` where the terminal's encoding lacks a character, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def complain(message: str, *, label: str = "Error") -> None:
    """Say on stderr what went wrong."""
    console = make_console(stderr=True)
    line = styled(f"{label}: ", "bold red" if label == "Error" else "bold yellow")
    console.print(line.append(plain(message)), soft_wrap=True)
