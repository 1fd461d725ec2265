"""The scripted model over HTTP, as any client of the Messages API sees it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx
import pytest

import sandboxkit.testing
from sandboxkit.testing import (
    END_OF_SCRIPT,
    ModelRequest,
    Reply,
    ScriptedModel,
    call,
    fail,
    say,
    think,
)
from tests.testing.messages_client import HELLO, STREAMED, Json, ask, client_of, events_of, text_of

FOREVER_S = 3600.0
CLAUDE_CODE = {"user-agent": "claude-cli/2.1.329 (external, sdk-py)"}


# --- answers --------------------------------------------------------------------


async def test_a_whole_message() -> None:
    reply = Reply(
        [think("Hm."), say("Running it."), call("Bash", command="ls -l", timeout=5)],
        input_tokens=11,
        output_tokens=22,
        cache_read_tokens=33,
        cache_creation_tokens=44,
        cache_creation_1h_tokens=4,
    )
    async with (
        ScriptedModel([reply, Reply([], stop_reason="refusal")]) as model,
        client_of(model) as client,
    ):
        message = (await ask(client)).json()
        empty = (await ask(client)).json()

    assert message["type"] == "message"
    assert message["role"] == "assistant"
    assert message["model"] == "claude-test"
    assert message["stop_reason"] == "tool_use"
    thought, text, tool = message["content"]
    assert (thought["type"], thought["thinking"]) == ("thinking", "Hm.")
    assert thought["signature"]
    assert text == {"type": "text", "text": "Running it."}
    assert tool["id"].startswith("toolu_")
    assert (tool["type"], tool["name"]) == ("tool_use", "Bash")
    assert tool["input"] == {"command": "ls -l", "timeout": 5}
    assert message["usage"] == {
        "input_tokens": 11,
        "output_tokens": 22,
        "cache_read_input_tokens": 33,
        "cache_creation_input_tokens": 44,
        "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 4},
    }
    assert (empty["content"], empty["stop_reason"]) == ([], "refusal")
    assert empty["id"] != message["id"]


async def test_a_stream_holds_the_same_message_in_pieces() -> None:
    text, command = "Zwei\n  Wörter \u2028 ", "printf 'a  b' | wc -c"
    reply = Reply([think("A thought"), say(text), call("Bash", command=command)], output_tokens=9)
    async with ScriptedModel([reply]) as model, client_of(model) as client:
        response = await ask(client, stream=True)

    assert response.headers["content-type"] == "text/event-stream"
    assert response.text.endswith("\n\n")
    records = [record.split("\n") for record in response.text[:-2].split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in records]
    assert [name for name, _ in records] == [f"event: {event['type']}" for event in events]
    start, *middle, delta, stop = events
    assert start["message"]["content"] == []
    assert start["message"]["stop_reason"] is None
    assert start["message"]["usage"]["output_tokens"] == 1
    assert delta["delta"]["stop_reason"] == "tool_use"
    assert delta["usage"]["output_tokens"] == 9
    assert stop == {"type": "message_stop"}
    assert [event["index"] for event in middle] == sorted(event["index"] for event in middle)
    pieces = [
        [e["delta"] for e in middle if e["index"] == index and "delta" in e] for index in range(3)
    ]
    assert [delta["type"] for delta in pieces[0]] == [
        "thinking_delta",
        "thinking_delta",
        "signature_delta",
    ]
    assert len(pieces[1]) > 1
    assert "".join(delta["text"] for delta in pieces[1]) == text
    assert len(pieces[2]) > 1
    assert json.loads("".join(delta["partial_json"] for delta in pieces[2])) == {"command": command}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
        (418, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors(status: int, kind: str, stream: bool) -> None:
    async with (
        ScriptedModel([fail(status, "No.", retry_after_s=1.5), say("Yes.")]) as model,
        client_of(model) as client,
    ):
        response = await ask(client, stream=stream)
        assert response.status_code == status
        assert response.json()["error"] == {"type": kind, "message": "No."}
        assert response.json()["request_id"] == response.headers["request-id"]
        assert response.headers["retry-after"] == "1.5"
        assert await text_of(client) == "Yes."


# --- the script -----------------------------------------------------------------


async def test_steps_are_taken_in_order_and_the_end_is_recorded() -> None:
    model = ScriptedModel([say("one"), [say("two"), call("Read", path="/a")], say("three")])
    async with model, client_of(model) as client:
        assert await text_of(client) == "one"
        assert list(model.unused) == [[say("two"), call("Read", path="/a")], say("three")]
        assert await text_of(client) == "two"
        assert await text_of(client) == "three"
        assert list(model.unused) == []
        ended = [model.exhausted]
        assert await text_of(client) == END_OF_SCRIPT
        ended.append(model.exhausted)
        assert ended == [False, True]
        assert len(model.requests) == 4


async def test_one_function_answers_everything() -> None:
    model = ScriptedModel(lambda request: say(request.last_text.upper()))
    async with model, client_of(model) as client:
        assert await text_of(client) == "HELLO"
        assert await text_of(client) == "HELLO"
    assert not model.exhausted


async def test_a_step_may_wait_for_something_and_delays_nobody_else() -> None:
    released = asyncio.Event()

    async def when_released(request: ModelRequest) -> list[Any]:
        await released.wait()
        return [say(f"{request.last_text} at last")]

    model = ScriptedModel([when_released, say("Meanwhile.")])
    async with model, client_of(model) as client:
        held = asyncio.create_task(text_of(client))
        await model.wait_until(lambda: model.requests)
        assert await text_of(client) == "Meanwhile."
        assert not held.done()
        released.set()
        assert await held == "Hello at last"


async def test_an_error_in_a_script_function_reaches_the_test() -> None:
    def broken(request: ModelRequest) -> Reply:
        raise LookupError("no such turn")

    responses: list[httpx.Response] = []

    async def use() -> None:
        async with ScriptedModel(broken) as model, client_of(model) as client:
            responses.append(await ask(client))

    with pytest.raises(LookupError, match="no such turn"):
        await use()
    [response] = responses
    assert response.status_code == 400
    assert "LookupError: no such turn" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (["Hello"], r"write say\('Hello'\)"),
        ([None], "NoneType is no step"),
        ([[say("a"), fail(500)]], "Failure is no block"),
    ],
)
def test_what_is_no_step_is_refused(script: list[Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ScriptedModel(script)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="`pause_s` is -1"):
        Reply([], pause_s=-1)
    with pytest.raises(ValueError, match="dropped, stalled or failed"):
        Reply([], drop_after_events=1, stall_after_events=1)
    with pytest.raises(ValueError, match="HTTP status 200 is no error"):
        fail(200)
    with pytest.raises(ValueError, match="`retry_after_s` is -1"):
        fail(429, retry_after_s=-1)
    with pytest.raises(ValueError, match="needs a text"):
        say("")


# --- faults and hang-ups --------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 4, 7])
async def test_a_stream_is_dropped_after_so_many_events(count: int) -> None:
    # 7 events are the whole message; even then its end is missing.
    model = ScriptedModel([Reply([say("one two")], drop_after_events=count), say("Next.")])
    events: list[Json] = []

    async def read_all(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/messages", json=STREAMED) as response:
            async for event in events_of(response):
                events.append(event)  # noqa: PERF401 - the stream breaks

    async with model, client_of(model) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await read_all(client)
        assert await text_of(client) == "Next."
    assert len(events) == count
    assert not model.hang_ups


async def test_an_answer_that_is_not_streamed_is_dropped_whole() -> None:
    async with (
        ScriptedModel([Reply([say("x")], drop_after_events=3)]) as model,
        client_of(model) as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(client)


@pytest.mark.parametrize(
    ("reply", "events_sent"),
    [
        (Reply([say("one two")], stall_after_events=3), 3),
        (Reply([say("one two")], pause_s=FOREVER_S), 1),
    ],
)
async def test_a_hang_up_is_noticed_at_its_event(reply: Reply, events_sent: int) -> None:
    model = ScriptedModel([reply, say("Next.")])
    async with model, client_of(model) as client:
        async with client.stream("POST", "/v1/messages", json=STREAMED) as response:
            events = events_of(response)
            for _ in range(events_sent):
                await anext(events)
        await model.wait_until(lambda: model.hang_ups)
        [hang_up] = model.hang_ups
        assert hang_up.request is model.requests[0]
        assert hang_up.events == events_sent
        assert await text_of(client) == "Next."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "reply", [Reply([say("x")], delay_s=FOREVER_S), Reply([say("x")], stall_after_events=0)]
)
async def test_a_hang_up_before_the_first_byte_is_noticed(reply: Reply, stream: bool) -> None:
    model = ScriptedModel([reply])
    async with model, client_of(model) as client:
        asking = asyncio.create_task(ask(client, stream=stream))
        await model.wait_until(lambda: model.requests)
        asking.cancel()
        await model.wait_until(lambda: model.hang_ups)
    assert [hang_up.events for hang_up in model.hang_ups] == [0]


async def test_a_client_that_does_not_read_is_noticed_when_it_leaves() -> None:
    model = ScriptedModel([say("x " * 1_000_000)])
    async with model:
        host, port = model.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = json.dumps(STREAMED).encode()
        writer.write(b"POST /v1/messages HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"message_start")
        assert not model.hang_ups
        writer.transport.abort()
        await model.wait_until(lambda: model.hang_ups)


async def test_leaving_the_block_cuts_what_is_under_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = asyncio.all_tasks()
    model = ScriptedModel([Reply([say("x")], stall_after_events=2)])
    async with model:
        async with client_of(model) as client:
            asking = asyncio.create_task(ask(client, stream=True))
            await model.wait_until(lambda: model.requests)
            url = model.url
            await model.__aexit__(None, None, None)
            with pytest.raises(httpx.TransportError):
                await asking
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(url)
    assert asyncio.all_tasks() == before
    assert not model.hang_ups
    assert not [record for record in caplog.records if record.name == "asyncio"]
    with pytest.raises(RuntimeError, match="not running"):
        _ = model.url


async def test_waiting_for_what_does_not_come_says_what_was_seen() -> None:
    async with ScriptedModel([say("x")]) as model, client_of(model) as client:
        await ask(client)
        with pytest.raises(TimeoutError, match="has seen 1 requests, 0 side requests"):
            await model.wait_until(lambda: False, timeout_s=0)


# --- requests -------------------------------------------------------------------


async def test_the_record_of_a_request() -> None:
    messages: list[Json] = [
        {"role": "user", "content": "Old"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Bash"}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "plain", "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
                {"type": "text", "text": "<system-reminder>\nnote\n</system-reminder>\n New "},
            ],
        },
        {"role": "system", "content": "An environment."},
    ]
    secrets = {
        "X-Api-Key": "sk-secret",
        "Authorization": "Bearer sk-secret",
        "Cookie": "sk-secret",
        "X-Amz-Security-Token": "sk-secret",
    }
    async with ScriptedModel([say("x")]) as model, client_of(model) as client:
        client.headers.update({**secrets, "X-App": "cli"})
        await ask(client, messages=messages, system="Be brief.", tools=[{"name": "Bash"}])

    [request] = model.requests
    assert (request.model, request.max_tokens, request.stream) == ("claude-test", 64, False)
    assert request.tools == ("Bash",)
    assert request.system[0].text == "Be brief."
    assert request.messages[0].content[0].text == "Old"
    assert request.last_text == "New"
    assert request.tool_results == (
        ("Bash", "plain", True, "t1"),
        ("", "a\nb", False, "t2"),
    )
    assert request.body["messages"] == messages
    assert request.headers["x-app"] == "cli"
    assert {request.headers[name.lower()] for name in secrets} == {"[redacted]"}
    assert "sk-secret" not in repr(request)
    with pytest.raises(ValueError, match="frozen"):
        request.model = "another"


async def test_what_claude_code_asks_beside_the_conversation_takes_no_step() -> None:
    model = ScriptedModel([say("one"), say("two"), say("three")], side_step=say("Title"))
    async with model, client_of(model) as client:
        assert await text_of(client) == "one"
        client.headers.update(CLAUDE_CODE)
        assert await text_of(client) == "Title"
        assert await text_of(client, tools=[{"name": "Bash"}]) == "two"
        assert await text_of(client, context_management={"edits": []}) == "three"
    assert len(model.requests) == 3
    assert len(model.side_requests) == 1


async def test_the_rule_for_side_requests_can_be_replaced() -> None:
    model = ScriptedModel(
        [say("one")],
        is_side_request=lambda request: request.model == "claude-small",
        side_step=fail(404),
    )
    async with model, client_of(model) as client:
        assert (await ask(client, model="claude-small")).status_code == 404
        client.headers.update(CLAUDE_CODE)
        assert await text_of(client) == "one"


async def test_tokens_are_counted_beside_the_conversation() -> None:
    async with ScriptedModel([say("one")]) as model, client_of(model) as client:
        counts: list[int] = []
        for text in ("short", "long " * 100):
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            response = await client.post("/v1/messages/count_tokens?beta=true", json=body)
            counts.append(response.json()["input_tokens"])
    assert 0 < counts[0] < counts[1]
    assert [request.path for request in model.side_requests] == ["/v1/messages/count_tokens"] * 2
    assert len(model.unused) == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "body: Input should be an object"),
        (json.dumps({**HELLO, "messages": []}).encode(), "messages: "),
        (json.dumps({**HELLO, "messages": [{"role": "user"}]}).encode(), "messages.0.content"),
        (json.dumps({**HELLO, "max_tokens": None}).encode(), "max_tokens: "),
        (json.dumps({**HELLO, "tools": [1]}).encode(), "tools.0: "),
        (json.dumps({**HELLO, "tools": None}).encode(), "tools: "),
    ],
)
async def test_a_malformed_request_is_refused_and_takes_no_step(body: bytes, problem: str) -> None:
    async with ScriptedModel([say("one")]) as model, client_of(model) as client:
        response = await client.post("/v1/messages", content=body)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert problem in response.json()["error"]["message"]
        assert await text_of(client) == "one"
    assert len(model.requests) == 1


# --- the package ----------------------------------------------------------------


def test_names_are_loaded_when_they_are_used() -> None:
    program = (
        "import sys, sandboxkit.testing as t\n"
        "assert not any(m.startswith('sandboxkit.testing.') for m in sys.modules)\n"
        "assert t.ScriptedModel.__name__ == 'ScriptedModel'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    for name in sandboxkit.testing.__all__:
        assert getattr(sandboxkit.testing, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sandboxkit.testing.nonsense
