"""What a tool is: its arguments, its result, and what a client is told of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import mcp_types as types
from pydantic import BaseModel, ConfigDict

from sandboxkit.mcp.machine import Machine

OUTPUT_CHARS: Final = 30_000
"""Characters of one output that an agent is given: the first and the last half."""


class Arguments(BaseModel):
    """What an agent gives to a tool."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(BaseModel):
    """What a tool found or did: as fields for programs, and as text for a model."""

    model_config = ConfigDict(frozen=True)

    def text(self) -> str:
        """All of it, to be read."""
        raise NotImplementedError

    def blocks(self) -> list[types.ContentBlock]:
        """The blocks of the answer."""
        return [types.TextContent(text=self.text())]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool.

    Attributes:
        name: Its name.
        title: What a person is shown.
        description: What a model is told.
        arguments: What it takes.
        result: What it gives.
        run: Does it.
        reads: Whether it changes nothing.
        destroys: Whether it may undo or remove what is there.
        repeats: Whether a second call with the same arguments changes nothing more.
    """

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    result: type[Result]
    run: Callable[[Machine, Any], Awaitable[Result]]
    reads: bool = False
    destroys: bool = False
    repeats: bool = False

    def described(self, *, open_world: bool) -> types.Tool:
        """What `tools/list` says of it."""
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=_schema(self.arguments, "validation"),
            output_schema=_schema(self.result, "serialization"),
            annotations=types.ToolAnnotations(
                read_only_hint=self.reads,
                destructive_hint=self.destroys,
                idempotent_hint=self.reads or self.repeats,
                open_world_hint=open_world,
            ),
        )


def _schema(model: type[BaseModel], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """Its JSON schema, without the titles that pydantic makes up: a model reads all of it."""
    schema = model.model_json_schema(mode=mode)
    for each in (schema, *schema.get("$defs", {}).values()):
        each.pop("title", None)
        each.pop("description", None)
        for field in each.get("properties", {}).values():
            field.pop("title", None)
    return schema


def clipped(data: bytes, lost: int = 0) -> tuple[str, bool]:
    """Output as text of a bounded length, and whether anything is missing.

    Args:
        data: UTF-8; what is not is replaced.
        lost: Bytes before it that are gone already.
    """
    text = data.decode("utf-8", "replace")
    before = f"[{lost} bytes before this were not kept]\n" if lost else ""
    over = len(text) - OUTPUT_CHARS
    if over > 0:
        half = OUTPUT_CHARS // 2
        text = f"{text[:half]}\n[... {over} characters left out ...]\n{text[-half:]}"
    return before + text, bool(lost) or over > 0


def sections(*parts: tuple[str, str]) -> str:
    """Named pieces of text, those left out that are empty."""
    return "\n".join(f"{name}:\n{text}".rstrip("\n") for name, text in parts if text)


def joined(lines: Sequence[str]) -> str:
    """Lines, those left out that are empty."""
    return "\n".join(line for line in lines if line)
