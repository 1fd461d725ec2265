"""What an agent does, as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

from rich.text import Text

from sandboxkit.agents.events import (
    Event,
    Message,
    Retry,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
)
from sandboxkit.cli.flow import Flow
from sandboxkit.cli.terminal import plain, styled

if TYPE_CHECKING:
    from rich.console import Console

_HEAD_LINES: Final = 3
_TAIL_LINES: Final = 5

_EDIT_LINES: Final = 4
_MAIN_ARGUMENT: Final = ("command", "file_path", "path", "pattern", "query", "url", "description")


class Live:
    """Prints events: text as it is written, tools with what they are called for.

    All of it comes from the sandbox, and is printed as plain text.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._flow: Flow | None = None  # the text that is being written, if any is

    def show(self, event: Event) -> None:
        """Print one event; those that say nothing new print nothing."""
        match event:
            case TextDelta():
                self._write(event.text, "")
            case ThinkingDelta():
                self._write(event.text, "dim italic")
            case Message():
                self.end_line()
            case ToolCall():
                self._call(event)
            case ToolResult():
                self._result(event)
            case Retry():
                self._retry(event)
            case _:
                pass

    def end_line(self) -> None:
        """End the text that is being written."""
        if self._flow is not None:
            self._flow.end()
            self._flow = None

    def _write(self, text: str, style: str) -> None:
        if self._flow is None or self._flow.style != style:
            self.end_line()
            self._console.print()
            self._flow = Flow(self._console, style)
        self._flow.write(text)

    def _call(self, call: ToolCall) -> None:
        self.end_line()
        head, *more = _described(call.input).split("\n")
        line = styled(f"  {call.name} ", "bold cyan").append(plain(head))
        if more:
            line.append(f" … {len(more)} more lines", "dim")
        self._line(line)
        for part in _change(call.input):
            self._line(part)

    def _result(self, result: ToolResult) -> None:
        self.end_line()
        style, bar = ("", "red") if result.is_error else ("dim", "dim")
        lines = [line for line in plain(result.text).split("\n") if line.strip()]
        left_out = len(lines) - _HEAD_LINES - _TAIL_LINES
        for number, text in enumerate(lines):
            if left_out <= 1 or number < _HEAD_LINES or number >= len(lines) - _TAIL_LINES:
                self._line(Text("  │ ", bar).append(text, style))
            elif number == _HEAD_LINES:
                self._line(Text(f"  │ … {left_out} more lines", "dim"))

    def _retry(self, retry: Retry) -> None:
        self.end_line()
        why = "no answer" if retry.status is None else f"status {retry.status}"
        when = "" if retry.delay_s is None else f" in {retry.delay_s:.1f} s"
        self._line(styled(f"  The model did not answer ({why}); asking again{when}.", "yellow"))

    def _line(self, text: Text) -> None:
        text.expand_tabs(4)
        self._console.print(text, no_wrap=True, overflow="ellipsis")


def _described(arguments: Mapping[str, object]) -> str:
    """The argument that says most, or all of them."""
    for name in _MAIN_ARGUMENT:
        value = arguments.get(name)
        if isinstance(value, str):
            return value
    return json.dumps(dict(arguments), ensure_ascii=False, default=str) if arguments else ""


def _change(arguments: Mapping[str, object]) -> Iterator[Text]:
    """What a tool that edits or writes a file changes in it."""
    old, new = arguments.get("old_string"), arguments.get("new_string", arguments.get("content"))
    return chain(_lines(old, "-", "red"), _lines(new, "+", "green"))


def _lines(value: object, sign: str, style: str) -> Iterator[Text]:
    if not isinstance(value, str):
        return
    lines: Sequence[str] = plain(value).rstrip("\n").split("\n")
    for line in lines[:_EDIT_LINES]:
        yield Text("  │ ", "dim").append(f"{sign} {line}", style)
    if len(lines) > _EDIT_LINES:
        yield Text(f"  │ … {len(lines) - _EDIT_LINES} more lines", "dim")
