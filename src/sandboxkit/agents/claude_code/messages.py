"""The SDK's messages as sandboxkit's events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from claude_agent_sdk import (
    AssistantMessage,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)
from claude_agent_sdk import Message as SdkMessage

from sandboxkit.agents.events import (
    Event,
    Message,
    Notice,
    Retry,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
)


def events_of(message: SdkMessage) -> Iterator[Event]:
    """What a message says, in order; nothing for a result, which the caller makes."""
    match message:
        case StreamEvent():
            yield from _deltas(message)
        case AssistantMessage():
            parent = message.parent_tool_use_id
            text = _text(message.content)
            yield Message("assistant", text, parent_id=parent, raw=message)
            for block in message.content:
                if isinstance(block, ToolUseBlock):
                    yield ToolCall(block.id, block.name, block.input, parent_id=parent, raw=message)
        case UserMessage():
            parent = message.parent_tool_use_id
            content = message.content
            text = content if isinstance(content, str) else _text(content)
            yield Message("user", text, parent_id=parent, raw=message)
            for block in content if isinstance(content, list) else ():
                if isinstance(block, ToolResultBlock):
                    yield ToolResult(
                        block.tool_use_id,
                        _result_text(block.content),
                        bool(block.is_error),
                        parent_id=parent,
                        raw=message,
                    )
        case SystemMessage(subtype="api_retry", data=data):
            yield _retry(message, data)
        case SystemMessage(subtype=kind, data=data):
            yield Notice(kind, data, raw=message)
        case ResultMessage():
            return
        case _:
            yield Notice(type(message).__name__, raw=message)


def _deltas(message: StreamEvent) -> Iterator[Event]:
    delta = message.event.get("delta")
    if message.event.get("type") != "content_block_delta" or not isinstance(delta, dict):
        return
    pieces = cast("Mapping[str, Any]", delta)
    parent = message.parent_tool_use_id
    if isinstance(text := pieces.get("text"), str):
        yield TextDelta(text, parent_id=parent, raw=message)
    if isinstance(thinking := pieces.get("thinking"), str):
        yield ThinkingDelta(thinking, parent_id=parent, raw=message)


def _retry(message: SystemMessage, data: Mapping[str, Any]) -> Retry:
    delay, status = data.get("retry_delay_ms"), data.get("error_status")
    return Retry(
        attempt=int(data.get("attempt") or 1),
        delay_s=delay / 1000 if isinstance(delay, int | float) else None,
        status=status if isinstance(status, int) else None,
        raw=message,
    )


def is_answer(message: SdkMessage) -> bool:
    """Whether this is the model's own answer, or a piece of it, and not a sub-agent's."""
    if isinstance(message, StreamEvent):
        is_piece = message.event.get("type") == "content_block_delta"
        return is_piece and message.parent_tool_use_id is None
    return isinstance(message, AssistantMessage) and message.parent_tool_use_id is None


def begins_turn(message: SdkMessage) -> bool:
    """Whether the CLI begins with a prompt."""
    return isinstance(message, SystemMessage) and message.subtype == "init"


def answers(result: ResultMessage, prompt_id: str) -> bool:
    """Whether this is the result of our prompt.

    A background task that ends wakes the agent for a turn of its own, whose result
    must not be taken for the answer to a prompt.
    """
    if result.user_message_uuids:
        return prompt_id in result.user_message_uuids
    if result.user_message_uuid is not None:
        return result.user_message_uuid == prompt_id
    return result.origin is None or result.origin.get("kind") == "human"


def stop_reason(result: ResultMessage) -> str:
    """The reason in words that all agents share."""
    if (result.terminal_reason or "").startswith("aborted"):
        return "interrupted"
    if result.subtype == "error_max_turns":
        return "max_turns"
    if result.subtype == "error_max_budget_usd":
        return "max_budget"
    return "error" if result.is_error else result.stop_reason or "end_turn"


def errors(result: ResultMessage) -> tuple[str, ...]:
    """What the agent says of its failure; a failure of the API stands in the text."""
    if not result.is_error:
        return ()
    return tuple(result.errors or ()) or ((result.result,) if result.result else (result.subtype,))


def _text(blocks: list[Any]) -> str:
    return "".join(block.text for block in blocks if isinstance(block, TextBlock))


def _result_text(content: str | list[dict[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(str(block["text"]) for block in content if block.get("type") == "text")
