"""`Session`: a prompt in, a result out, and what happens meanwhile."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ResultMessage

from sandboxkit.agents import (
    Event,
    Finished,
    Message,
    Notice,
    Retry,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.claude_code.conversation import ClaudeCodeConversation
from sandboxkit.agents.registry import agents
from sandboxkit.errors import (
    AgentError,
    AuthenticationError,
    InvalidSpecError,
    ProviderNotFoundError,
    SandboxClosedError,
)
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import Reply, ScriptedModel, call, fail, say, think


def claude(model: ScriptedModel, **fields: Any) -> ClaudeCode:
    if not fields:
        return ClaudeCode(model_url=model.url)
    options = ClaudeAgentOptions(permission_mode="bypassPermissions", **fields)
    return ClaudeCode(options, model_url=model.url)


async def test_a_run(engine: str) -> None:
    model = ScriptedModel(
        [
            Reply([call("Bash", command="id -u > who; cat who")], input_tokens=10, output_tokens=1),
            Reply([say("User 1000.")], input_tokens=200, output_tokens=5, cache_read_tokens=70),
            say("You are welcome."),
        ]
    )
    async with model, Session("docker", agent=claude(model)) as session:
        assert session.sandbox.info.effective.network == "none"
        assert session.sandbox.info.effective.memory_gib == 1
        first = await session.run("Who are you?")
        assert await session.sandbox.files.read_text("who") == "1000\n"
        second = await session.run("Thank you")
        assert session.create_s > 0 < session.connect_s

    assert (first.text, first.turns, first.stop_reason) == ("User 1000.", 2, "end_turn")
    assert not first.is_error
    assert first.errors == ()
    assert first.usage == Usage(210, 6, cache_read_tokens=70)
    assert [(message.role, message.text) for message in first.messages] == [
        ("assistant", ""),
        ("user", ""),
        ("assistant", "User 1000."),
    ]
    assert isinstance(first.raw, ResultMessage)
    latency = first.latency
    assert latency.first_token_s is not None
    assert 0 < latency.first_token_s < latency.total_s
    assert 0 < latency.tools_s < latency.total_s
    assert second.session_id == first.session_id == session.id
    assert second.usage == Usage(100, 20)
    assert second.latency.tools_s == 0
    assert session.usage == first.usage + second.usage == Usage(310, 26, 70)
    assert first.cost_usd
    assert second.cost_usd
    assert session.cost_usd == pytest.approx(first.cost_usd + second.cost_usd)
    assert session.close_s > 0
    # It has Claude Code's own prompt, and the tools of one that may not reach the web.
    assert "Claude Code" in str(model.requests[0].system)


async def test_a_stream(sandbox: Sandbox) -> None:
    model = ScriptedModel(
        [
            fail(529),
            [think("Hm hm."), say("I look."), call("Bash", command="echo seen; exit 2")],
            say("It failed."),
        ]
    )
    events: list[Event] = []
    async with model, Session(sandbox, agent=claude(model)) as session:
        async for event in session.stream("Look"):
            events.append(event)  # noqa: PERF401 - as a user would
        assert [event async for event in session.stream("Look again")][-1].__class__ is Finished

    kinds = [type(event) for event in events if not isinstance(event, Notice)]
    assert kinds == [
        Retry,
        *[ThinkingDelta] * 2,
        Message,
        *[TextDelta] * 2,
        Message,
        Message,
        ToolCall,
        Message,
        ToolResult,
        *[TextDelta] * 2,
        Message,
        Finished,
    ]
    [retry] = [event for event in events if isinstance(event, Retry)]
    assert (retry.attempt, retry.status) == (1, 529)
    assert retry.delay_s
    [made] = [event for event in events if isinstance(event, ToolCall)]
    [result] = [event for event in events if isinstance(event, ToolResult)]
    assert (made.name, made.input) == ("Bash", {"command": "echo seen; exit 2"})
    assert isinstance(made.raw, AssistantMessage)
    assert (result.id, result.is_error) == (made.id, True)
    assert "seen" in result.text
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "I look.It failed."
    assert isinstance(events[-1], Finished)
    assert events[-1].result.text == "It failed."


async def test_failures_of_the_agent_are_results(sandbox: Sandbox) -> None:
    model = ScriptedModel([call("Bash", command="true"), *[fail(400, "no such thing")] * 9])
    async with model, Session(sandbox, agent=claude(model, max_turns=1)) as session:
        first = await session.run("Work")
        second = await session.run("Work")

    assert (first.stop_reason, first.is_error) == ("max_turns", True)
    assert first.errors
    assert (second.stop_reason, second.is_error) == ("error", True)
    assert "no such thing" in second.errors[0]


async def test_a_wrong_key_is_told_at_once(sandbox: Sandbox) -> None:
    model = ScriptedModel([fail(401, "invalid x-api-key")] * 20)
    async with model, Session(sandbox, agent=claude(model)) as session:
        result = await session.run("Work")

    assert (result.stop_reason, result.is_error) == ("error", True)
    assert "Invalid API key" in result.errors[0]
    assert len(model.requests) == 1


async def test_structured_output(sandbox: Sandbox) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}}
    model = ScriptedModel([call("StructuredOutput", sum=4), say("Here.")])
    output = {"type": "json_schema", "schema": schema}
    async with model, Session(sandbox, agent=claude(model, output_format=output)) as session:
        assert (await session.run("2 + 2?")).structured_output == {"sum": 4}


async def test_a_turn_of_the_agents_own_is_not_taken_for_an_answer(sandbox: Sandbox) -> None:
    """A background command that ends wakes the agent between two prompts."""
    model = ScriptedModel(
        [
            call("Bash", command="cat < go", run_in_background=True),
            say("It runs."),
            say("It has ended."),
            say("As you say."),
        ]
    )
    await sandbox.sh("mkfifo go")
    async with model, Session(sandbox, agent=claude(model)) as session:
        assert (await session.run("Start it")).text == "It runs."
        await sandbox.sh("echo > go")
        await model.wait_until(lambda: len(model.requests) == 3)
        assert (await session.run("Well?")).text == "As you say."


async def test_what_the_sdk_alone_can_do(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("one"), say("two")])
    async with model, Session(sandbox, agent=claude(model)) as session:
        await session.run("one")
        assert isinstance(session.conversation, ClaudeCodeConversation)
        await session.conversation.client.set_model("claude-haiku-4-5")
        await session.run("two")
    assert model.requests[1].model == "claude-haiku-4-5"


async def test_a_sandbox_of_the_callers_lives_on(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("one"), say("two")])
    async with model:
        async with Session(sandbox, agent=claude(model)) as one:
            await one.run("one")
        async with Session(sandbox, agent=claude(model), resume=one.id) as two:
            await two.run("two")
        # The CLI counts on from where the other one ended; a session does not.
        assert two.usage == one.usage == Usage(100, 20)
        assert two.cost_usd == pytest.approx(one.cost_usd)
    assert (await sandbox.sh("echo alive")).text == "alive\n"
    assert len(model.requests[1].messages) > len(model.requests[0].messages)


async def test_the_id_can_be_chosen(sandbox: Sandbox) -> None:
    mine = "12345678-1234-4234-8234-123456789abc"
    model = ScriptedModel([say("one")])
    async with model, Session(sandbox, agent=claude(model), id=mine) as session:
        assert (await session.run("one")).session_id == mine


async def test_a_session_that_is_not_open() -> None:
    session = Session("docker", agent=ClaudeCode(model_url="http://127.0.0.1:9"))
    with pytest.raises(SandboxClosedError, match="not open: use `async with"):
        await session.run("x")
    with pytest.raises(SandboxClosedError, match="not open"):
        await session.interrupt()
    with pytest.raises(SandboxClosedError, match="not open"):
        _ = session.sandbox
    await session.aclose()
    with pytest.raises(SandboxClosedError, match="closed"):
        await session.run("x")


async def test_bad_input_is_refused_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_URL", "API_KEY", "AUTH_TOKEN"):
        monkeypatch.delenv(f"ANTHROPIC_{name}", raising=False)
    with pytest.raises(InvalidSpecError, match="'me' is not the id of a conversation"):
        Session("docker", id="me")
    with pytest.raises(InvalidSpecError, match="not both"):
        Session("docker", id="me", resume="me")
    with pytest.raises(InvalidSpecError, match="the prompt is empty"):
        Session("docker").stream(" ")
    for session, error, message in (
        (Session("docker", agent="nobody"), ProviderNotFoundError, "known here: claude-code"),
        (Session("docker"), AuthenticationError, "There is no key"),
        (Session("docker", memory=1), InvalidSpecError, "memory"),
        (
            Session("docker", agent=ClaudeCode(api_key="k"), env={"ANTHROPIC_API_KEY": "secret"}),
            AgentError,
            "it stays on this machine",
        ),
    ):
        with pytest.raises(error, match=re.escape(message)) as raised:
            await session.__aenter__()
        assert "secret" not in str(raised.value)


def test_the_agent_is_found_by_its_name() -> None:
    assert "claude-code" in agents.names()
    assert agents.load("claude-code") is ClaudeCode


def test_neither_the_sdk_nor_an_engine_is_imported_with_the_session() -> None:
    code = (
        "import sys, sandboxkit, sandboxkit.session, sandboxkit.agents; "
        "print([name for name in ('claude_agent_sdk', 'docker', 'mcp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
