"""The messages agent: prompts in, events and results out, and tools that work in a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from sandboxkit.agents import (
    Finished,
    Message,
    Retry,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from sandboxkit.agents.messages import Tool
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import Reply, ScriptedModel, call, fail, say, think
from sandboxkit.testing.scripted_model.steps import Text
from tests.agents.messages_agent import EDITOR, agent, only


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker") as sandbox:
        yield sandbox


async def test_a_run(engine: str) -> None:
    model = ScriptedModel(
        [
            Reply([call("bash", command="id -u > who; cat who")], input_tokens=10, output_tokens=1),
            Reply([say("User 1000.")], input_tokens=200, output_tokens=5, cache_read_tokens=70),
            say("You are welcome."),
        ]
    )
    async with model, Session("docker", agent=agent(model)) as session:
        assert session.sandbox.info.effective.network == "none"
        first = await session.run("Who are you?")
        assert await session.sandbox.files.read_text("who") == "1000\n"
        second = await session.run("Thank you")
        assert session.create_s > 0 < session.connect_s

    assert (first.text, first.turns, first.stop_reason) == ("User 1000.", 2, "end_turn")
    assert (first.is_error, first.errors) == (False, ())
    assert first.usage == Usage(210, 6, cache_read_tokens=70)
    assert [(message.role, message.text) for message in first.messages] == [
        ("assistant", ""),
        ("user", ""),
        ("assistant", "User 1000."),
    ]
    latency = first.latency
    assert latency.first_token_s is not None
    assert 0 < latency.first_token_s < latency.total_s
    assert 0 < latency.tools_s < latency.total_s
    assert latency.model_wait_s > 0 < latency.generation_s
    assert second.session_id == first.session_id == session.id
    assert second.usage == Usage(100, 20)
    assert second.latency.tools_s == 0
    assert session.usage == first.usage + second.usage
    # What the gateway has counted is all there is, and is complete when the run is.
    assert first.metered is not None
    assert (first.metered.requests, first.metered.usage) == (2, first.usage)
    assert first.cost_usd == first.metered.cost_usd
    assert first.cost_usd
    assert session.meter.total.requests == 3
    assert "/work" in model.requests[0].system[0].text


async def test_a_stream(sandbox: Sandbox) -> None:
    model = ScriptedModel(
        [
            fail(529),
            [think("Hm hm."), say("I look."), call("bash", command="echo seen; exit 2")],
            say("It failed."),
        ]
    )
    thinking = {"type": "adaptive"}
    async with model, Session(sandbox, agent=agent(model, thinking=thinking)) as session:
        events = [event async for event in session.stream("Look")]

    assert [type(event) for event in events] == [
        Retry,
        *[ThinkingDelta] * 2,
        *[TextDelta] * 2,
        Message,
        ToolCall,
        Message,
        ToolResult,
        *[TextDelta] * 2,
        Message,
        Finished,
    ]
    [retry] = only(events, Retry)
    assert (retry.attempt, retry.status) == (1, 529)
    [made] = only(events, ToolCall)
    [result] = only(events, ToolResult)
    assert (made.name, made.input) == ("bash", {"command": "echo seen; exit 2"})
    assert (result.id, result.is_error) == (made.id, True)
    assert "seen\n" in result.text
    assert "exit code 2" in result.text
    assert "".join(e.text for e in only(events, TextDelta)) == "I look.It failed."
    assert only(events, Finished)[0].result.text == "It failed."
    assert model.requests[0].body["thinking"] == thinking
    # The thought goes back with its signature, before the call that it led to.
    thought = model.requests[2].messages[1].content[0].model_dump(exclude_unset=True)
    assert thought == {"type": "thinking", "thinking": "Hm hm.", "signature": "c2NyaXB0ZWQ="}


async def test_a_failing_test_is_mended(sandbox: Sandbox) -> None:
    """What an agent is for, with both tools."""
    await sandbox.files.write("add.py", "def add(a, b):\n    return a - b\n")
    await sandbox.files.write("test_add.py", "from add import add\nassert add(2, 2) == 4\n")
    model = ScriptedModel(
        [
            call("bash", command="python3 -B test_add.py"),
            [say("Let me see."), call(EDITOR, command="view", path="/work/add.py")],
            call(EDITOR, command="str_replace", path="add.py", old_str="a - b", new_str="a + b"),
            call("bash", command="python3 -B test_add.py && echo passed"),
            say("It passes now."),
        ]
    )
    async with model, Session(sandbox, agent=agent(model)) as session:
        events = [event async for event in session.stream("Mend the test")]
    results = only(events, ToolResult)
    assert [result.is_error for result in results] == [True, False, False, False]
    assert "AssertionError" in results[0].text
    assert "     2\t    return a - b" in results[1].text
    assert "     2\t    return a + b" in results[2].text
    assert results[3].text == "passed\n"
    assert only(events, Finished)[0].result.turns == 5
    assert (await sandbox.exec(["python3", "test_add.py"])).exit_code == 0


async def test_tools_of_the_caller_run_on_the_host(sandbox: Sandbox) -> None:
    seen: list[Mapping[str, Any]] = []

    async def weather(arguments: Mapping[str, Any]) -> str:
        seen.append(arguments)
        return f"Rain in {arguments['city']}"

    async def broken(arguments: Mapping[str, Any]) -> str:
        raise LookupError("no such thing")

    async def wrong(arguments: Mapping[str, Any]) -> Any:
        return None

    async def picture(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
        return [{"type": "text", "text": "A wall."}, {"type": "image", "source": source}]

    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    functions = (weather, broken, wrong, picture)
    tools = [Tool(function.__name__, "For tests.", schema, function) for function in functions]
    model = ScriptedModel(
        [
            [call("weather", city="Bern"), call("bash", command="echo inside"), call("broken")],
            [call("nobody", x=1), call("wrong"), call("picture")],
            say("Done."),
        ]
    )
    async with model, Session(sandbox, agent=agent(model, tools=tools)) as session:
        events = [event async for event in session.stream("Look")]

    assert seen == [{"city": "Bern"}]
    assert model.requests[0].tools == ("bash", EDITOR, *(t.name for t in tools))
    # In the order of the calls, whichever was first to end.
    assert [(r.name, r.text, r.is_error) for r in model.requests[1].tool_results] == [
        ("weather", "Rain in Bern", False),
        ("bash", "inside\n", False),
        ("broken", "broken failed: LookupError: no such thing", True),
    ]
    unknown, wrong_result, shown = model.requests[2].tool_results
    assert (wrong_result.is_error, shown.is_error) == (True, False)
    assert shown.text == "A wall."
    assert "image/png" in str(model.requests[2].messages[-1].content[-1].content)
    assert unknown.is_error
    assert "There is no tool nobody; there are: bash" in unknown.text
    ids = {event.id for event in only(events, ToolCall)}
    assert {event.id for event in only(events, ToolResult)} == ids


async def test_stop_reasons(sandbox: Sandbox) -> None:
    model = ScriptedModel(
        [
            Reply([say("Let me se"), call("bash", command="echo no")], stop_reason="max_tokens"),
            Reply([say("I search.")], stop_reason="pause_turn"),
            say("Found."),
            Reply([say("I cannot.")], stop_reason="refusal"),
            Reply([say("x")], stop_reason="model_context_window_exceeded"),
            Reply([]),
            say("Still here."),
        ]
    )
    async with model, Session(sandbox, agent=agent(model)) as session:
        cut, paused, refused, full, empty, last = [await session.run(c) for c in "abcdef"]

    assert (cut.stop_reason, cut.is_error, cut.text) == ("max_tokens", True, "Let me se")
    assert "max_tokens" in cut.errors[0]
    assert (paused.stop_reason, paused.turns, paused.text) == ("end_turn", 2, "Found.")
    assert (refused.stop_reason, refused.is_error) == ("refusal", True)
    assert (full.stop_reason, full.is_error) == ("model_context_window_exceeded", True)
    assert (empty.stop_reason, empty.text, empty.is_error) == ("end_turn", "", False)
    assert last.text == "Still here."
    # The half call was not made, and what was refused is not said again.
    said = str(model.requests[-1].messages)
    assert "Let me se" in said
    assert "echo no" not in said
    assert "I cannot." not in said
    # The paused answer was sent back as it was, for the service to go on.
    assert model.requests[2].messages[-1].role == "assistant"


async def test_an_empty_text_is_not_sent_back(sandbox: Sandbox) -> None:
    """The API writes them at times, and refuses them always."""
    model = ScriptedModel([[Text(""), call("bash", command="true")], say("Done.")])
    async with model, Session(sandbox, agent=agent(model)) as session:
        assert (await session.run("Work")).text == "Done."


async def test_max_turns(sandbox: Sandbox) -> None:
    model = ScriptedModel([call("bash", command="echo did it > done"), say("Yes.")])
    async with model, Session(sandbox, agent=agent(model, max_turns=1)) as session:
        first = await session.run("Work")
        second = await session.run("Did you?")
    assert (first.stop_reason, first.is_error, first.turns) == ("max_turns", True, 1)
    assert "max_turns" in first.errors[0]
    assert await sandbox.files.read_text("done") == "did it\n"
    assert second.text == "Yes."
