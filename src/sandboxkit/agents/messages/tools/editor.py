"""The text editor that Anthropic defines, on the files of the sandbox."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sandboxkit.agents.messages.tools.tool import Block, SandboxTool, ToolFailed, ToolOutput
from sandboxkit.errors import FileError, InvalidSpecError, SizeLimitError

if TYPE_CHECKING:
    from sandboxkit.sandbox import Sandbox

VIEW_LIMIT: Final = 50_000
"""Characters of a file that one `view` shows: the first and the last half."""

FILE_LIMIT: Final = 10 * 1024 * 1024
"""Bytes of a file that the editor takes; larger ones are for the shell."""

_ENTRIES: Final = 1000
_AROUND: Final = 4  # lines shown before and after an edit
_COMMANDS: Final = ("view", "create", "str_replace", "insert")
# docs.claude.com, "Text editor tool", model compatibility: Claude 3.7 has its own.
_CLAUDE_3: Final = re.compile(r"(^|[./])claude-3-")


class Editor(SandboxTool):
    """Views and changes text files, as the sandbox's user. Line endings stay as they are.

    Args:
        sandbox: Where; a relative path starts at its work directory.
        model: The model that will use it: which version of the tool it knows.
    """

    def __init__(self, sandbox: Sandbox, model: str) -> None:
        self._files = sandbox.files
        self._old = _CLAUDE_3.search(model) is not None

    def definition(self) -> Block:
        """See `SandboxTool`."""
        if self._old:
            return {"type": "text_editor_20250124", "name": "str_replace_editor"}
        return {
            "type": "text_editor_20250728",
            "name": "str_replace_based_edit_tool",
            "max_characters": VIEW_LIMIT,
        }

    async def run(self, arguments: Mapping[str, Any]) -> ToolOutput:
        """See `SandboxTool`."""
        command, path = arguments.get("command"), _text(arguments, "path")
        try:
            match command:
                case "view":
                    said = await self._view(path, arguments.get("view_range"))
                case "create":
                    said = await self._create(path, _text(arguments, "file_text"))
                case "str_replace":
                    new = arguments.get("new_str") or ""
                    said = await self._replace(path, _text(arguments, "old_str"), str(new))
                case "insert":
                    field = "insert_text" if "insert_text" in arguments else "new_str"
                    said = await self._insert(
                        path, arguments.get("insert_line"), _text(arguments, field)
                    )
                case _:
                    raise ToolFailed(
                        f"There is no command {command!r}; there are {', '.join(_COMMANDS)}."
                    )
        except (FileError, InvalidSpecError) as error:
            raise ToolFailed(error.message) from error
        return ToolOutput(said)

    async def _view(self, path: str, lines: object) -> str:
        if (await self._files.stat(path)).kind == "directory":
            if lines is not None:
                raise ToolFailed("`view_range` is for files; this is a directory.")
            return await self._listing(path)
        content = (await self._read(path)).split("\n")
        if content[-1] == "" and len(content) > 1:
            content.pop()  # what stands behind the last line's end is no line
        first, last = _range(lines, len(content))
        return _shortened(_numbered(content[first - 1 : last], first))

    async def _listing(self, path: str) -> str:
        """Two levels deep, without what is hidden."""
        base = path.rstrip("/") or "/"
        found: list[str] = []
        for entry in await self._files.list(path):
            if entry.name.startswith(".") or len(found) > _ENTRIES:
                continue
            inside = f"{base.rstrip('/')}/{entry.name}"
            if entry.kind != "directory":
                found.append(inside)
                continue
            found.append(f"{inside}/")
            try:
                below = await self._files.list(inside)
            except FileError:
                continue  # of somebody else
            found.extend(f"{inside}/{e.name}" for e in below if not e.name.startswith("."))
        more = [f"[... and more: only {_ENTRIES} are shown]"] if len(found) > _ENTRIES else []
        shown = [_printable(name) for name in found[:_ENTRIES]]
        return "\n".join([f"{base}, two levels deep, without hidden files:", *shown, *more])

    async def _create(self, path: str, text: str) -> str:
        await self._files.write(path, _encoded(text))
        return f"{path} has been written."

    async def _replace(self, path: str, old: str, new: str) -> str:
        if not old:
            raise ToolFailed("`old_str` is empty.")
        text = await self._read(path)
        count = text.count(old)
        if count != 1:
            reason = "is not" if count == 0 else f"is {count} times"
            raise ToolFailed(
                f"Nothing was changed: `old_str` {reason} in {path}; it must match exactly one "
                "place, white space included."
            )
        at = text.index(old)
        changed = text[:at] + new + text[at + len(old) :]
        await self._files.write(path, _encoded(changed))
        return _edited(path, changed, text.count("\n", 0, at) + 1, new.count("\n") + 1)

    async def _insert(self, path: str, after: object, text: str) -> str:
        *whole, rest = (await self._read(path)).split("\n")
        lines = [f"{line}\n" for line in whole] + ([rest] if rest else [])
        if type(after) is not int or not 0 <= after <= len(lines):
            raise ToolFailed(f"`insert_line` must be 0 to {len(lines)}, not {after!r}.")
        if after and not lines[after - 1].endswith("\n"):
            lines[after - 1] += "\n"
        if after < len(lines) and not text.endswith("\n"):
            text += "\n"
        changed = "".join([*lines[:after], text, *lines[after:]])
        await self._files.write(path, _encoded(changed))
        return _edited(path, changed, after + 1, text.rstrip("\n").count("\n") + 1)

    async def _read(self, path: str) -> str:
        try:
            return await self._files.read_text(path, max_bytes=FILE_LIMIT)
        except UnicodeDecodeError:
            raise ToolFailed(f"{path} is not UTF-8 text; use the shell for it.") from None
        except SizeLimitError:
            raise ToolFailed(
                f"{path} has more than {FILE_LIMIT} bytes; use the shell for it (sed -n, grep)."
            ) from None


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or (name == "path" and not value):
        raise ToolFailed(f"`{name}` is missing.")
    return value


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ToolFailed("The text holds half of a surrogate pair, which no file can.") from None


def _range(lines: object, count: int) -> tuple[int, int]:
    """The first and the last line to show, from 1."""
    if lines is None:
        return 1, count
    match lines:
        case [int(first), int(last)]:
            last = count if last == -1 else last
            if 1 <= first <= count and first <= last:
                return first, min(last, count)
        case _:
            pass
    raise ToolFailed(
        f"`view_range` must be [first, last] with 1 <= first <= last (or -1 for the end), and the "
        f"file has {count} lines."
    )


def _numbered(lines: list[str], first: int) -> str:
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(lines, first))


def _shortened(text: str) -> str:
    if len(text) <= VIEW_LIMIT:
        return text
    half = VIEW_LIMIT // 2
    missing = len(text) - 2 * half
    note = f"[... {missing} characters left out; use view_range ...]"
    return f"{text[:half]}\n{note}\n{text[-half:]}"


def _edited(path: str, text: str, first: int, count: int) -> str:
    """The place of an edit, with what stands around it."""
    lines = text.split("\n")
    start = max(1, first - _AROUND)
    shown = _numbered(lines[start - 1 : first + count - 1 + _AROUND], start)
    return f"{path} has been edited:\n{_shortened(shown)}"


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
