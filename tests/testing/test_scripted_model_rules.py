"""The scripted model refuses what the Messages API refuses, and fails as it fails."""

from __future__ import annotations

from typing import Any

import pytest

from sandboxkit.testing import Reply, ScriptedModel, fail, say
from tests.testing.messages_client import STREAMED, Json, ask, client_of, events_of

CALL: Json = {"type": "tool_use", "id": "toolu_1", "name": "x", "input": {}}
RESULT: Json = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "y"}
MARK: Json = {"type": "text", "text": "z", "cache_control": {"type": "ephemeral"}}


def user(*content: Any) -> Json:
    return {"role": "user", "content": list(content) or "Hello"}


def assistant(*content: Any) -> Json:
    return {"role": "assistant", "content": list(content)}


@pytest.mark.parametrize(
    ("messages", "refusal"),
    [
        ([user(), assistant(CALL), user(RESULT)], None),
        ([user(), assistant(CALL), user(RESULT), user()], None),
        ([user(), user(), assistant({"type": "text", "text": "prefill"})], None),
        ([user(*[MARK] * 4)], None),
        ([user(), assistant(CALL)], "messages.1: `tool_use` ids were found without"),
        ([user(), assistant(CALL), user()], "immediately after: toolu_1"),
        ([user(), assistant(CALL), user(), assistant(), user(RESULT)], "toolu_1"),
        ([user({"type": "text", "text": ""})], "messages.0: text content blocks must be"),
        ([assistant({"type": "text", "text": "x"}), user()], "first message must use the user"),
        ([user(*[MARK] * 5)], "A maximum of 4 blocks with cache_control may be provided. Found 5"),
    ],
)
async def test_a_conversation_that_the_api_would_refuse(
    messages: list[Json], refusal: str | None
) -> None:
    async with ScriptedModel([say("Hi.")]) as model, client_of(model) as client:
        response = await ask(client, messages=messages)
        assert len(model.requests) == (refusal is None)
    if refusal is None:
        assert response.status_code == 200
    else:
        assert response.status_code == 400
        assert refusal in response.json()["error"]["message"]


async def test_an_error_in_mid_stream() -> None:
    broken = Reply([say("one two")], fail_after_events=3, failure=fail(500, "Look"))
    model = ScriptedModel([broken, Reply([say("one")], fail_after_events=1)])
    answers: list[list[Json]] = []
    async with model, client_of(model) as client:
        for _ in range(2):
            async with client.stream("POST", "/v1/messages", json=STREAMED) as response:
                assert response.status_code == 200
                answers.append([event async for event in events_of(response)])
    kinds = [[event["type"] for event in events] for events in answers]
    begun = ["message_start", "content_block_start", "content_block_delta"]
    assert kinds == [[*begun, "error"], ["message_start", "error"]]
    assert answers[0][-1]["error"] == {"type": "api_error", "message": "Look"}
    assert answers[1][-1]["error"] == {"type": "overloaded_error", "message": "Overloaded"}


def test_an_error_before_the_first_event_is_another_step() -> None:
    with pytest.raises(ValueError, match=r"is `fail\(...\)`"):
        Reply([say("x")], fail_after_events=0)
    with pytest.raises(ValueError, match="`fail_after_events` is -1"):
        Reply([say("x")], fail_after_events=-1)
    with pytest.raises(ValueError, match="dropped, stalled or failed"):
        Reply([say("x")], fail_after_events=1, stall_after_events=1)
