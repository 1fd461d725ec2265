"""What the Messages API refuses in a conversation, so that a script finds it as well.

Source: the API reference, pages "Messages", "Tool use" and "Prompt caching".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import JsonValue

    from sandboxkit.testing.scripted_model.request import ContentBlock, Message, ModelRequest

_MOST_MARKS = 4


def problem_of(request: ModelRequest) -> str | None:
    """What is wrong with the conversation; None where nothing is."""
    turns = _turns(request.messages)
    for index, (role, blocks) in enumerate(turns):
        if any(block.type == "text" and not block.text for block in blocks):
            return f"messages.{index}: text content blocks must be non-empty"
        if role != "assistant":
            continue
        calls = {block.id for block in blocks if block.type == "tool_use"}
        following = turns[index + 1][1] if index + 1 < len(turns) else ()
        if missing := sorted(calls - _answered(following)):
            return (
                f"messages.{index}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {', '.join(missing)}"
            )
    if turns[0][0] != "user":
        return "messages: first message must use the user role"
    if (count := _marks(request)) > _MOST_MARKS:
        return f"A maximum of 4 blocks with cache_control may be provided. Found {count}."
    return None


def _turns(messages: Sequence[Message]) -> list[tuple[str, list[ContentBlock]]]:
    """The messages; those of one role that follow one another are one, as the API has it."""
    turns: list[tuple[str, list[ContentBlock]]] = []
    for message in messages:
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(message.content)
        else:
            turns.append((message.role, list(message.content)))
    return turns


def _answered(blocks: Sequence[ContentBlock]) -> set[str]:
    return {block.tool_use_id for block in blocks if block.type == "tool_result"}


def _marks(request: ModelRequest) -> int:
    return sum("cache_control" in mapping for mapping in _mappings(request.body))


def _mappings(value: JsonValue) -> Iterator[dict[str, JsonValue]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mappings(inner)
