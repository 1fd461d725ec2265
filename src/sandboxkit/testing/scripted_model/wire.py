"""The Messages API on the wire: a reply as a message, a message as events, errors.

Shapes: the API reference, pages "Messages", "Streaming messages" and "Errors".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TypeAlias
from uuid import uuid4

from pydantic import JsonValue

from sandboxkit.testing.scripted_model.steps import Block, Failure, Reply, Text, Thinking, ToolCall

Json: TypeAlias = dict[str, JsonValue]

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_PIECES = re.compile(r"\s*\S+|\s+$")


def message(reply: Reply, *, model: str) -> Json:
    """The reply as a whole message, with ids that no other message has."""
    calls = any(isinstance(block, ToolCall) for block in reply.blocks)
    return {
        "id": f"msg_{uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [_content(block) for block in reply.blocks],
        "stop_reason": reply.stop_reason or ("tool_use" if calls else "end_turn"),
        "stop_sequence": None,
        "usage": {
            "input_tokens": reply.input_tokens,
            "cache_creation_input_tokens": reply.cache_creation_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": (
                    reply.cache_creation_tokens - reply.cache_creation_1h_tokens
                ),
                "ephemeral_1h_input_tokens": reply.cache_creation_1h_tokens,
            },
            "cache_read_input_tokens": reply.cache_read_tokens,
            "output_tokens": reply.output_tokens,
        },
    }


def events(reply: Reply, *, model: str) -> Iterator[bytes]:
    """The reply as server-sent events, each with its blank line."""
    whole = message(reply, model=model)
    usage, content = whole["usage"], whole["content"]
    assert isinstance(usage, dict)
    assert isinstance(content, list)
    start: Json = {
        **whole,
        "content": [],
        "stop_reason": None,
        "usage": {**usage, "output_tokens": min(1, reply.output_tokens)},
    }
    yield _event("message_start", message=start)
    for index, block in enumerate(content):
        assert isinstance(block, dict)
        empty, deltas = _streamed(block)
        yield _event("content_block_start", index=index, content_block=empty)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    stop: Json = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=stop, usage=usage)
    yield _event("message_stop")


def error(failure: Failure) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of an error."""
    request_id = f"req_{uuid4().hex[:24]}"
    body: Json = {"type": "error", "error": _error(failure), "request_id": request_id}
    headers = {"request-id": request_id}
    if failure.retry_after_s is not None:
        headers["retry-after"] = f"{failure.retry_after_s:g}"
    return encode(body), headers


def error_event(failure: Failure) -> bytes:
    """An error in the middle of a stream."""
    return _event("error", error=_error(failure))


def _error(failure: Failure) -> Json:
    other = "invalid_request_error" if failure.status < 500 else "api_error"
    return {"type": _ERROR_TYPES.get(failure.status, other), "message": failure.message}


def encode(value: Json) -> bytes:
    """JSON as the API sends it: compact, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _content(block: Block) -> Json:
    match block:
        case Text(text):
            return {"type": "text", "text": text}
        case Thinking(text):
            return {"type": "thinking", "thinking": text, "signature": "c2NyaXB0ZWQ="}
        case ToolCall(name, arguments):
            identity = f"toolu_{uuid4().hex[:24]}"
            return {"type": "tool_use", "id": identity, "name": name, "input": dict(arguments)}


def _streamed(block: Json) -> tuple[Json, list[Json]]:
    """A block as it is when it starts, and what is added to it."""
    match block["type"]:
        case "text":
            return {**block, "text": ""}, _deltas("text_delta", "text", str(block["text"]))
        case "thinking":
            deltas = _deltas("thinking_delta", "thinking", str(block["thinking"]))
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
        case _:
            arguments = json.dumps(block["input"], ensure_ascii=False)
            return {**block, "input": {}}, _deltas("input_json_delta", "partial_json", arguments)


def _deltas(kind: str, field: str, content: str) -> list[Json]:
    """One delta for each word; each word keeps the white space before it."""
    return [{"type": kind, field: piece} for piece in _PIECES.findall(content)]


def _event(kind: str, **fields: JsonValue) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encode({"type": kind, **fields}))
