"""The tools for single files: read, written, edited, listed."""

from __future__ import annotations

import base64
from typing import Annotated, Final, Literal

import mcp_types as types
from pydantic import Field

from sandboxkit.errors import FileError, SizeLimitError
from sandboxkit.mcp.machine import Machine
from sandboxkit.mcp.tool import Arguments, Result, Tool, joined

Path = Annotated[
    str, Field(min_length=1, description="Absolute, or relative to the work directory.")
]

_MOST_BYTES: Final = 10 * 1024 * 1024
_MOST_IMAGE: Final = 3 * 1024 * 1024  # the messages API takes 5 MB in base64
_MOST_CHARS: Final = 60_000
_MOST_LINES: Final = 2000
_MOST_ENTRIES: Final = 1000
_IMAGES: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}


class ReadArguments(Arguments):
    """What `read_file` takes."""

    path: Path
    first_line: int = Field(default=1, ge=1, description="Where to begin.")
    lines: int = Field(default=_MOST_LINES, ge=1, le=_MOST_LINES, description="How many.")


class FileText(Result):
    """A file, or a part of it."""

    path: str
    kind: Literal["text", "image"]
    content: str = Field(description="The text exactly; of an image, nothing.")
    first_line: int
    last_line: int
    total_lines: int
    truncated: bool = Field(description="Whether the file goes on after this.")
    image: bytes = Field(default=b"", exclude=True, repr=False)
    mime_type: str | None = None

    def text(self) -> str:
        """The content; before it, which part it is if it is not all."""
        if self.kind == "image":
            return f"{self.path}: {self.mime_type}"
        whole = self.first_line == 1 and not self.truncated
        part = f"[lines {self.first_line} to {self.last_line} of {self.total_lines}]\n"
        return self.content if whole else part + self.content

    def blocks(self) -> list[types.ContentBlock]:
        """The text, or the image."""
        blocks: list[types.ContentBlock] = [types.TextContent(text=self.text())]
        if self.mime_type is not None:
            data = base64.b64encode(self.image).decode()
            blocks.append(types.ImageContent(data=data, mime_type=self.mime_type))
        return blocks


async def read(machine: Machine, arguments: ReadArguments) -> FileText:
    """Read a text file, or an image."""
    path = arguments.path
    data = await _read(machine, path)
    kind = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
    if kind is not None and len(data) <= _MOST_IMAGE:
        return FileText(
            path=path,
            kind="image",
            content="",
            first_line=0,
            last_line=0,
            total_lines=0,
            truncated=False,
            image=data,
            mime_type=kind,
        )
    every = _text(path, data).splitlines(keepends=True)
    begin = arguments.first_line - 1
    taken: list[str] = []
    room = _MOST_CHARS
    for line in every[begin : begin + arguments.lines]:
        if len(line) > room and taken:
            break
        taken.append(line[:room])
        room -= len(line)
    cut = bool(taken) and room < 0
    return FileText(
        path=path,
        kind="text",
        content="".join(taken) + (f"\n[the line is cut after {_MOST_CHARS} characters]" * cut),
        first_line=min(arguments.first_line, len(every) + 1),
        last_line=begin + len(taken),
        total_lines=len(every),
        truncated=cut or begin + len(taken) < len(every),
    )


class WriteArguments(Arguments):
    """What `write_file` takes."""

    path: Path
    content: str
    append: bool = Field(default=False, description="Add to the end, instead of replacing.")


class Written(Result):
    """A file that was written."""

    path: str
    bytes_written: int
    replaced: int = Field(default=0, description="How many places an edit has changed.")

    def text(self) -> str:
        """What was done."""
        places = f", {self.replaced} places changed" if self.replaced > 1 else ""
        return f"{self.path}: {self.bytes_written} bytes written{places}"


async def write(machine: Machine, arguments: WriteArguments) -> Written:
    """Write a whole file."""
    sandbox = await (await machine.life()).ready()
    data = _bytes(arguments.content)
    await sandbox.files.write(arguments.path, data, append=arguments.append)
    return Written(path=arguments.path, bytes_written=len(data))


class EditArguments(Arguments):
    """What `edit_file` takes."""

    path: Path
    old: str = Field(min_length=1, description="The text to replace, exactly as it stands there.")
    new: str = Field(description="What shall stand there.")
    everywhere: bool = Field(
        default=False, description="Replace all places; otherwise there must be only one."
    )


async def edit(machine: Machine, arguments: EditArguments) -> Written:
    """Replace text in a file."""
    path = arguments.path
    text = _text(path, await _read(machine, path))
    places = text.count(arguments.old)
    if places == 0:
        raise FileError(f"{path}: the old text is not in it; nothing was changed", code="no_match")
    if places > 1 and not arguments.everywhere:
        raise FileError(
            f"{path}: the old text is there {places} times; nothing was changed. Give more of "
            "what stands around it, or everywhere=true",
            code="many_matches",
        )
    data = _bytes(text.replace(arguments.old, arguments.new))
    sandbox = await (await machine.life()).ready()
    await sandbox.files.write(path, data)
    return Written(path=path, bytes_written=len(data), replaced=places)


class ListArguments(Arguments):
    """What `list_files` takes."""

    path: Path = "."


class Entry(Result):
    """What stands in a directory."""

    name: str
    kind: Literal["file", "directory", "symlink", "other"]
    size: int = Field(description="Bytes.")
    target: str | None = Field(description="Where a symlink points to.")

    def text(self) -> str:
        """A line."""
        name = self.name + ("/" if self.kind == "directory" else "")
        return f"{self.size:>12} {name}" + (f" -> {self.target}" if self.target else "")


class Listing(Result):
    """A directory."""

    path: str
    entries: list[Entry]
    total: int
    truncated: bool = Field(description="Whether entries are missing.")

    def text(self) -> str:
        """A line for each."""
        missing = f"[{self.total - len(self.entries)} more are left out]" if self.truncated else ""
        return joined([each.text() for each in self.entries] + [missing]) or "It is empty."


async def list_directory(machine: Machine, arguments: ListArguments) -> Listing:
    """The entries of a directory."""
    sandbox = await (await machine.life()).ready()
    found = await sandbox.files.list(arguments.path)
    entries = [
        Entry(
            name=_printable(each.name),
            kind=each.kind,
            size=each.size,
            target=None if each.target is None else _printable(each.target),
        )
        for each in found[:_MOST_ENTRIES]
    ]
    return Listing(
        path=arguments.path,
        entries=entries,
        total=len(found),
        truncated=len(found) > len(entries),
    )


async def _read(machine: Machine, path: str) -> bytes:
    sandbox = await (await machine.life()).ready()
    try:
        return await sandbox.files.read(path, max_bytes=_MOST_BYTES)
    except SizeLimitError:
        raise SizeLimitError(
            f"{path} has more than {_MOST_BYTES} bytes: use exec with head, tail, grep or sed"
        ) from None


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FileError(
            f"{path} is not text in UTF-8 ({len(data)} bytes); use exec with file, od or base64",
            code="not_text",
        ) from None


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise FileError("the text holds half a surrogate pair", code="not_text") from None


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


TOOLS: Final = (
    Tool(
        "read_file",
        "Read a file",
        f"Read a text file of the sandbox, at most {_MOST_LINES} lines at once, or see an image "
        "(PNG, JPEG, GIF).",
        ReadArguments,
        FileText,
        read,
        reads=True,
    ),
    Tool(
        "write_file",
        "Write a file",
        "Write a file in the sandbox: a new one, or in place of the old one. Missing "
        "directories are made.",
        WriteArguments,
        Written,
        write,
        destroys=True,
    ),
    Tool(
        "edit_file",
        "Edit a file",
        "Replace an exact piece of text in a file of the sandbox.",
        EditArguments,
        Written,
        edit,
        destroys=True,
    ),
    Tool(
        "list_files",
        "List a directory",
        "What stands in a directory of the sandbox.",
        ListArguments,
        Listing,
        list_directory,
        reads=True,
    ),
)
