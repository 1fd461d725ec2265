"""The real CLI in a sandbox without a network: all that the SDK offers, across the boundary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    HookMatcher,
    Message,
    PermissionResultDeny,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    ToolAnnotations,
    ToolPermissionContext,
    create_sdk_mcp_server,
    query,
    tool,
)

from sandboxkit.agents.claude_code import SandboxTransport, claude_code_artifact
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import Reply, ScriptedModel, call, fail, say
from tests.agents.places import Inside, Local, Place, ask, result_of, trace

if TYPE_CHECKING:
    import pytest
    from claude_agent_sdk.types import HookContext, HookInput, SyncHookJSONOutput


@tool("add", "Add two numbers", {"a": int, "b": int})
async def add(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": str(arguments["a"] + arguments["b"])}]}


async def no_curl(
    hook_input: HookInput, tool_use_id: str | None, context: HookContext
) -> SyncHookJSONOutput:
    assert hook_input["hook_event_name"] == "PreToolUse"
    if "curl" not in str(hook_input["tool_input"]):
        return {}
    return {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "deny",
            "permissionDecisionReason": "no curl here",
        }
    }


async def conversation(place: Place) -> tuple[list[list[Message]], ScriptedModel]:
    """Several turns with tool calls, a tool of the host, and a hook that blocks a command."""
    model = ScriptedModel(
        [
            call("Bash", command="printf made > made.txt; cat made.txt"),
            [say("And now the sum."), call("mcp__sums__add", a=2, b=40)],
            say("It is 42."),
            call("Bash", command="curl example.com"),
            say("I may not."),
        ]
    )
    async with place.client(
        model,
        include_partial_messages=True,
        mcp_servers={"sums": create_sdk_mcp_server("sums", tools=[add])},
        hooks={"PreToolUse": [HookMatcher(matcher="Bash", hooks=[no_curl])]},
    ) as client:
        turns = [await ask(client, "Make it and add"), await ask(client, "Get example.com")]
    assert not model.unused
    assert not model.exhausted
    return turns, model


async def test_a_conversation_is_the_same_as_with_the_local_transport(
    inside: Inside, local: Local
) -> None:
    turns, model = await conversation(inside)

    assert [result_of(turn).result for turn in turns] == ["It is 42.", "I may not."]
    [made], [added] = model.requests[1].tool_results, model.requests[2].tool_results
    assert (made.text, made.is_error) == ("made", False)
    assert added.text == "42"
    [refused] = model.requests[4].tool_results
    assert refused.is_error
    assert "no curl here" in refused.text
    assert await inside.sandbox.files.read_text("made.txt") == "made"

    local_turns, _ = await conversation(local)
    assert [trace(turn) for turn in turns] == [trace(turn) for turn in local_turns]


async def test_can_use_tool_is_asked_and_refuses(inside: Inside) -> None:
    asked: list[str] = []

    async def refuse(
        name: str, arguments: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResultDeny:
        asked.append(f"{name}: {arguments['command']}")
        return PermissionResultDeny(message="not on my watch")

    model = ScriptedModel([call("Bash", command="touch /work/x"), say("As you wish.")])
    async with inside.client(model, permission_mode="default", can_use_tool=refuse) as client:
        result = result_of(await ask(client, "Touch it"))

    assert asked == ["Bash: touch /work/x"]
    assert result.result == "As you wish."
    assert "not on my watch" in model.requests[1].tool_results[0].text
    assert not await inside.sandbox.files.exists("/work/x")


async def test_query_needs_one_more_argument(inside: Inside) -> None:
    model = ScriptedModel([call("Bash", command="hostname"), say("Done.")])
    async with model:
        options = inside.options(model)
        transport = SandboxTransport(inside.sandbox, options)
        messages = [m async for m in query(prompt="Where?", options=options, transport=transport)]

    assert result_of(messages).result == "Done."
    name = (await inside.sandbox.exec(["cat", "/etc/hostname"])).text.strip()
    assert model.requests[1].tool_results[0].text == name


async def interrupted(place: Place) -> tuple[list[Message], list[Message], ScriptedModel]:
    stalls = Reply([say("one two three")], stall_after_events=4)
    model = ScriptedModel([stalls, say("Again.")])
    async with place.client(model, include_partial_messages=True) as client:
        await client.query("Count")
        messages = [await until_text(client, " two")]
        await client.interrupt()
        await model.wait_until(lambda: model.hang_ups)
        messages += [message async for message in client.receive_response()]
        again = await ask(client, "Go on")
    return messages, again, model


async def test_interrupt_in_mid_stream_hangs_up_on_the_model(inside: Inside, local: Local) -> None:
    messages, again, model = await interrupted(inside)

    assert [hang_up.events for hang_up in model.hang_ups] == [4]
    assert result_of(messages).terminal_reason == "aborted_streaming"
    assert result_of(again).result == "Again."
    local_messages, local_again, _ = await interrupted(local)
    assert trace(messages) == trace(local_messages)
    assert trace(again) == trace(local_again)


async def until_text(client: ClaudeSDKClient, wanted: str) -> Message:
    async for message in client.receive_messages():
        assert not isinstance(message, AssistantMessage | ResultMessage), "the stream has ended"
        if isinstance(message, StreamEvent):
            text = message.event.get("delta", {}).get("text")
            if text == wanted:
                return message
    raise AssertionError("the messages have ended")


async def test_structured_output(inside: Inside) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer"}},
        "required": ["sum"],
    }
    model = ScriptedModel([call("StructuredOutput", sum=4), say("Here.")])
    async with inside.client(
        model, output_format={"type": "json_schema", "schema": schema}
    ) as client:
        result = result_of(await ask(client, "2 + 2?"))

    assert result.structured_output == {"sum": 4}


async def test_max_turns(inside: Inside, local: Local) -> None:
    traces: list[list[str]] = []
    for place in (inside, local):
        model = ScriptedModel([call("Bash", command="true"), say("never said")])
        async with place.client(model, max_turns=1) as client:
            messages = await ask(client, "Work on")
        assert result_of(messages).subtype == "error_max_turns"
        assert len(model.requests) == 1
        traces.append(trace(messages))

    assert traces[0] == traces[1]


async def test_set_model(inside: Inside) -> None:
    model = ScriptedModel([say("one"), say("two")])
    async with inside.client(model, model="claude-sonnet-4-5") as client:
        await ask(client, "Say one")
        await client.set_model("claude-haiku-4-5")
        await ask(client, "Say two")

    assert [request.model for request in model.requests] == [
        "claude-sonnet-4-5",
        "claude-haiku-4-5",
    ]


async def test_an_overload_is_retried_by_the_cli(inside: Inside) -> None:
    model = ScriptedModel([fail(529), say("There.")])
    async with inside.client(model) as client:
        messages = await ask(client, "Hello")

    assert result_of(messages).result == "There."
    retries = [
        message.data["error_status"]
        for message in messages
        if isinstance(message, SystemMessage) and message.subtype == "api_retry"
    ]
    assert retries == [529]


async def test_host_tools_run_at_once(inside: Inside) -> None:
    both = asyncio.Barrier(2)

    @tool("meet", "Waits for the other call", {}, ToolAnnotations(read_only_hint=True))
    async def meet(arguments: dict[str, Any]) -> dict[str, Any]:
        await asyncio.wait_for(both.wait(), 20)
        return {"content": [{"type": "text", "text": "met"}]}

    model = ScriptedModel([[call("mcp__m__meet"), call("mcp__m__meet")], say("Met.")])
    servers = {"m": create_sdk_mcp_server("m", tools=[meet])}
    async with inside.client(model, mcp_servers=servers) as client:
        await ask(client, "Meet")

    assert [result.text for result in model.requests[1].tool_results] == ["met", "met"]


async def test_the_environment_holds_no_credential_and_nothing_of_the_host(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_VARIABLE_OF_THE_HOST", "visible")
    model = ScriptedModel([call("Bash", command="env; cat /proc/[0-9]*/environ"), say("Seen.")])
    async with inside.client(
        model, env={"MINE": "given", "ANTHROPIC_AUTH_TOKEN": "a-token-of-the-host"}
    ) as client:
        await ask(client, "Show the environment")

    seen = model.requests[1].tool_results[0].text
    assert "MINE=given" in seen
    assert "A_VARIABLE_OF_THE_HOST" not in seen
    assert "a-key-of-the-host" not in seen
    assert "a-token-of-the-host" not in seen
    # The model itself was sent the real one.
    assert model.requests[0].headers["x-api-key"] == "[redacted]"


async def test_web_tools_are_withheld_where_the_network_is_off(inside: Inside) -> None:
    model = ScriptedModel([say("Hello.")])
    async with inside.client(model) as client:
        init: Any = (await ask(client, "Hello"))[0]

    assert "Bash" in init.data["tools"]
    assert not {"WebSearch", "WebFetch"} & set(init.data["tools"])


async def test_end_of_input_in_mid_turn_lets_the_turn_finish(inside: Inside) -> None:
    model = ScriptedModel([call("Bash", command="true"), say("Finished all the same.")])
    async with model:
        options = inside.options(model)
        transport = SandboxTransport(inside.sandbox, options)

        async def prompts() -> AsyncIterator[dict[str, Any]]:
            yield {"type": "user", "message": {"role": "user", "content": "Work"}}

        messages = [m async for m in query(prompt=prompts(), options=options, transport=transport)]

    assert result_of(messages).result == "Finished all the same."


async def test_stderr_comes_by_whole_lines_whatever_the_callback_does(inside: Inside) -> None:
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        raise RuntimeError("of the callback")

    model = ScriptedModel([say("Hello.")])
    flags = {"debug-to-stderr": None}
    async with inside.client(model, stderr=keep, extra_args=flags) as client:
        result = result_of(await ask(client, "Hello"))

    assert result.result == "Hello."
    assert len(lines) > 1
    assert all(line.strip() and "\n" not in line for line in lines)


async def test_a_turn_is_activity_and_the_waiting_cli_is_none(engine: str) -> None:
    model = ScriptedModel([Reply([say("At last.")], delay_s=3.0)])
    artifact = await claude_code_artifact()
    async with (
        model,
        Sandbox.create("docker", artifacts=[artifact], idle_timeout_s=2.0) as sandbox,
    ):
        options = ClaudeAgentOptions(env={"ANTHROPIC_BASE_URL": model.url})
        transport = SandboxTransport(sandbox, options)
        async with ClaudeSDKClient(options, transport=transport) as client:
            await client.query("Think")
            messages = [message async for message in client.receive_response()]
            assert isinstance(messages[-1], ResultMessage)
            with anyio.fail_after(60):
                while sandbox.failure is None:
                    await anyio.sleep(0.05)
            assert sandbox.failure.code == "idle"
