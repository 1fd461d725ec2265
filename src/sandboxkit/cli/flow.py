"""Text that comes in pieces, wrapped between words where the terminal ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from sandboxkit.cli.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console

_PARTS: Final = re.compile(r"(\s)")


class Flow:
    """A running text of one style. The last word is held back until it is whole."""

    def __init__(self, console: Console, style: str) -> None:
        self._console = console
        self._column = 0
        self._word = ""
        self.style = style

    def write(self, text: str) -> None:
        """Print what is whole of the text so far; it is made plain."""
        parts = _PARTS.split(self._word + plain(text))
        self._word = parts.pop()
        for part in parts:
            self._print(part)

    def end(self) -> None:
        """Print the rest, and end the line."""
        self._print(self._word)
        self._word = ""
        self._print("\n")

    def _print(self, part: str) -> None:
        width = cell_len(part)
        wrapped = self._console.is_terminal and 0 < self._console.width - self._column < width
        if wrapped or part == "\n":
            self._console.print()
            self._column = 0
        if part.strip() or (part and part != "\n" and not wrapped):
            self._console.print(Text(part, self.style), end="", soft_wrap=True)
            self._column += width
