"""The scripted model, asked by the real Claude Code CLI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    Message,
    ResultMessage,
    StreamEvent,
    SystemMessage,
)

from sandboxkit.testing import Reply, ScriptedModel, call, fail, say

OptionsFor = Callable[[ScriptedModel], ClaudeAgentOptions]


@pytest.fixture
def options_for(tmp_path: Path) -> OptionsFor:
    """Options for a CLI that has a home of its own and talks to a scripted model."""

    def options(model: ScriptedModel) -> ClaudeAgentOptions:
        return ClaudeAgentOptions(
            cwd=tmp_path,
            permission_mode="bypassPermissions",
            include_partial_messages=True,
            setting_sources=[],
            env={
                "HOME": str(tmp_path),
                "CLAUDE_CONFIG_DIR": str(tmp_path / "claude"),
                "ANTHROPIC_BASE_URL": model.url,
                "ANTHROPIC_API_KEY": "dummy",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "IS_SANDBOX": "1",
            },
        )

    return options


async def talk(options: ClaudeAgentOptions, *prompts: str) -> list[list[Message]]:
    """A session with these prompts: what it said to each, the result last."""
    client = ClaudeSDKClient(options)
    await client.connect()
    try:
        return [await ask(client, prompt) for prompt in prompts]
    finally:
        await client.disconnect()


async def ask(client: ClaudeSDKClient, prompt: str) -> list[Message]:
    await client.query(prompt)
    return [message async for message in client.receive_response()]


def result_of(messages: list[Message]) -> ResultMessage:
    assert isinstance(messages[-1], ResultMessage)
    return messages[-1]


async def test_turns_with_tools_take_the_steps_in_order(
    tmp_path: Path, options_for: OptionsFor
) -> None:
    model = ScriptedModel(
        [
            call("Bash", command="printf made-by-bash; exit 3"),
            [
                say("It failed, so I write it."),
                call("Write", file_path=str(tmp_path / "a.txt"), content="x\n"),
            ],
            Reply([say("All done.")], output_tokens=7, cache_read_tokens=50),
            say("You are welcome."),
        ]
    )
    async with model:
        turns = await talk(options_for(model), "Make a.txt", "Thank you")

    first, second = map(result_of, turns)
    assert (first.result, first.num_turns) == ("All done.", 3)
    assert second.result == "You are welcome."
    assert (tmp_path / "a.txt").read_text() == "x\n"
    assert not model.unused
    assert not model.exhausted
    assert [request.last_text for request in model.requests] == ["Make a.txt", "", "", "Thank you"]
    [failed] = model.requests[1].tool_results
    assert (failed.name, failed.is_error) == ("Bash", True)
    assert "made-by-bash" in failed.text
    [written] = model.requests[2].tool_results
    assert (written.name, written.is_error) == ("Write", False)
    assert "Bash" in model.requests[0].tools
    assert first.usage is not None
    assert first.usage["output_tokens"] == 20 + 20 + 7
    assert first.usage["cache_read_input_tokens"] == 50


async def test_side_requests_take_no_step(options_for: OptionsFor) -> None:
    model = ScriptedModel([say("one"), say("two")])
    async with model:
        options = options_for(model)
        options.tools = []  # so that the conversation cannot be told by its tools
        del options.env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"]  # then titles are asked for
        client = ClaudeSDKClient(options)
        await client.connect()
        try:
            turns = [await ask(client, "Say the first word")]
            await client.set_model("claude-haiku-4-5")  # probes the new model
            turns.append(await ask(client, "Say the second word"))
            await model.wait_until(lambda: len(model.side_requests) >= 2)
        finally:
            await client.disconnect()

    assert [result_of(messages).result for messages in turns] == ["one", "two"]
    assert [request.last_text for request in model.requests] == [
        "Say the first word",
        "Say the second word",
    ]


async def test_an_overload_is_retried_with_the_next_step(options_for: OptionsFor) -> None:
    model = ScriptedModel([fail(529), fail(429, retry_after_s=0), say("There.")])
    async with model:
        [messages] = await talk(options_for(model), "Hello")

    assert result_of(messages).result == "There."
    assert len(model.requests) == 3
    assert [
        message.data["error_status"]
        for message in messages
        if isinstance(message, SystemMessage) and message.subtype == "api_retry"
    ] == [529, 429]


async def test_a_dropped_stream_is_asked_again(options_for: OptionsFor) -> None:
    model = ScriptedModel([Reply([say("never whole")], drop_after_events=3), say("Whole.")])
    async with model:
        [messages] = await talk(options_for(model), "Hello")

    assert result_of(messages).result == "Whole."
    assert len(model.requests) == 2
    assert not model.hang_ups


async def test_interrupt_hangs_up(options_for: OptionsFor) -> None:
    model = ScriptedModel([Reply([say("one two three")], stall_after_events=4), say("Again.")])
    async with model:
        client = ClaudeSDKClient(options_for(model))
        await client.connect()
        try:
            await client.query("Count")
            async for text in streamed_texts(client):
                if text == " two":
                    break
            await client.interrupt()
            await model.wait_until(lambda: model.hang_ups)
            interrupted = [message async for message in client.receive_response()]
            again = await ask(client, "Go on")
        finally:
            await client.disconnect()

    [hang_up] = model.hang_ups
    assert hang_up.request is model.requests[0]
    assert hang_up.events == 4
    assert result_of(interrupted).is_error
    assert result_of(again).result == "Again."


async def streamed_texts(client: ClaudeSDKClient) -> AsyncIterator[str]:
    async for message in client.receive_messages():
        assert not isinstance(message, AssistantMessage | ResultMessage), "the stream has ended"
        if isinstance(message, StreamEvent):
            text = message.event.get("delta", {}).get("text")
            if text is not None:
                yield text
