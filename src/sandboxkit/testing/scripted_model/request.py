"""What the client asked, as a record that a test can look into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    JsonValue,
    TypeAdapter,
    ValidationError,
)

from sandboxkit.testing.scripted_model.rules import problem_of

_SECRET_HEADER = re.compile(r"auth|cookie|key|secret|token", re.IGNORECASE)
# Claude Code adds notes for the model to what the user wrote, inside such tags.
_NOTE = re.compile(r"<(system-reminder|local-command-[a-z]+|command-[a-z]+)>.*?</\1>\s*", re.DOTALL)


_JSON_OBJECT = TypeAdapter(dict[str, JsonValue])


def _as_blocks(content: object) -> object:
    """The API takes a string where it takes a list with one text block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _tool_names(tools: object) -> object:
    """A tool is defined by a mapping; the record keeps its name."""
    return tuple(tool.name for tool in _TOOLS.validate_python(tools))


class _Tool(BaseModel):
    name: str


_TOOLS = TypeAdapter(list[_Tool])


class ContentBlock(BaseModel):
    """One block of a message; fields of other block types are kept as they came."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: JsonValue = None
    tool_use_id: str = ""
    content: JsonValue = None
    is_error: bool | None = None


Blocks = Annotated[tuple[ContentBlock, ...], BeforeValidator(_as_blocks)]


class Message(BaseModel):
    """One message of the conversation; a string content has become one text block."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: str
    content: Blocks


class ToolResult(NamedTuple):
    """What a tool gave back.

    Attributes:
        name: The tool, as called; empty if the conversation does not hold the call.
        text: The text blocks of the result, joined.
        is_error: Whether the client reports a failure of the tool.
        tool_use_id: The id of the call.
    """

    name: str
    text: str
    is_error: bool
    tool_use_id: str


class ModelRequest(BaseModel):
    """One request to the scripted model.

    Attributes:
        path: `/v1/messages` or `/v1/messages/count_tokens`.
        headers: Names in lower case; the values of those that may hold a key are `[redacted]`.
        body: The JSON body, whole.
        model: The model asked for.
        max_tokens: None only where tokens are counted.
        messages: The conversation.
        system: The system prompt, as blocks.
        tools: The names of the tools that the model may call.
        stream: Whether the answer is wanted as a stream of events.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    headers: dict[str, str]
    body: dict[str, JsonValue]
    model: str
    max_tokens: int | None = None
    messages: tuple[Message, ...]
    system: Blocks = ()
    tools: Annotated[tuple[str, ...], BeforeValidator(_tool_names)] = ()
    stream: bool = False

    @property
    def last_text(self) -> str:
        """What the user has written since the model's last answer, without Claude Code's notes."""
        texts = (
            _NOTE.sub("", block.text).strip() for block in self._news() if block.type == "text"
        )
        return "\n".join(text for text in texts if text)

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """What the tools have given back since the model's last answer."""
        calls = {
            block.id: block.name
            for message in self.messages
            for block in message.content
            if block.type == "tool_use"
        }
        return tuple(
            ToolResult(
                name=calls.get(block.tool_use_id, ""),
                text=_text_of(block.content),
                is_error=bool(block.is_error),
                tool_use_id=block.tool_use_id,
            )
            for block in self._news()
            if block.type == "tool_result"
        )

    def _news(self) -> list[ContentBlock]:
        """The user's blocks after the last message of the assistant."""
        blocks: list[ContentBlock] = []
        for message in self.messages:
            if message.role == "assistant":
                blocks.clear()
            elif message.role == "user":
                blocks.extend(message.content)
        return blocks


def claude_code_side_request(request: ModelRequest) -> bool:
    """Whether Claude Code asks this beside the conversation: titles, probes of a model.

    Such requests carry neither tools nor `context_management`; those of the conversation carry
    at least one of them, also with `tools=[]` (Claude Code 2.1.329, measured). A request of any
    other client is never a side request.
    """
    return (
        request.headers.get("user-agent", "").startswith("claude-cli/")
        and not request.tools
        and "context_management" not in request.body
    )


def parse_request(path: str, headers: Mapping[str, str], body: bytes) -> ModelRequest:
    """A request as it came over HTTP.

    Raises:
        ValueError: The API would refuse it; the message says which field is wrong.
    """
    try:
        content = _JSON_OBJECT.validate_json(body)
        request = ModelRequest.model_validate(
            {**content, "path": path, "headers": _redacted(headers), "body": content}
        )
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "body"
        raise ValueError(f"{place}: {problem['msg']}") from exc
    if not request.messages:
        raise ValueError("messages: at least one message is required")
    if request.max_tokens is None and not path.endswith("/count_tokens"):
        raise ValueError("max_tokens: Field required")
    if (wrong := problem_of(request)) is not None:
        raise ValueError(wrong)
    return request


def _redacted(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: "[redacted]" if _SECRET_HEADER.search(name) else value
        for name, value in headers.items()
    }


def _text_of(content: JsonValue) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        str(block.get("text", ""))
        for block in content
        if isinstance(block, dict) and block.get("type") == "text"
    )
