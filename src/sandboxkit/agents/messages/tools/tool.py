"""What a tool is, and what it gives back."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sandboxkit.errors import InvalidSpecError

Block: TypeAlias = dict[str, Any]
"""A block of a message, a message or a tool's definition, as the Messages API writes it."""

Content: TypeAlias = str | Sequence[Mapping[str, Any]]
"""What a tool says: text, or blocks of the Messages API (text, images)."""

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function of the caller's that the model may call. It runs on the host, not in the sandbox.

    ```python
    async def weather(arguments: Mapping[str, Any]) -> str:
        return f"It rains in {arguments['city']}."

    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    Messages(tools=[Tool("weather", "The weather in a city.", schema, weather)])
    ```

    Args:
        name: 1 to 128 letters, digits, `_` and `-`.
        description: What it does, for the model.
        input_schema: The JSON schema of its arguments: an object. It is what the model is
            told; the arguments that come are not checked against it.
        run: Called with the arguments that the model wrote, and awaited. An exception is
            told to the model, by its type and message, as a failure of the tool; it does not
            end the run. It is cancelled when the prompt is interrupted.

    Raises:
        InvalidSpecError: The name or the schema cannot be sent.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], Awaitable[Content]] = field(repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidSpecError(
                f"{self.name!r} cannot be the name of a tool: 1 to 128 letters, digits, _ and -"
            )
        if self.input_schema.get("type") != "object":
            raise InvalidSpecError(f"the input_schema of {self.name} must be of type object")

    def definition(self) -> Block:
        """As the API is told of it."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": dict(self.input_schema),
        }


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a call gave back.

    Attributes:
        content: For the model.
        is_error: Whether it failed.
    """

    content: Content
    is_error: bool = False

    @property
    def text(self) -> str:
        """Its text blocks, joined."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(b.get("text", "")) for b in self.content if b.get("type") == "text")


class SandboxTool(ABC):
    """A tool that Anthropic defines, and that works in the sandbox."""

    @abstractmethod
    def definition(self) -> Block:
        """As the API is told of it."""

    @abstractmethod
    async def run(self, arguments: Mapping[str, Any]) -> ToolOutput:
        """One call. Cancelling it ends what it does.

        Raises:
            ToolFailed: The model is told, and goes on.
            SandboxError: The sandbox is lost.
        """

    async def aclose(self) -> None:
        """End what it has running. Idempotent."""
        return


class ToolFailed(Exception):
    """The message is for the model."""
