"""What the messages agent is given, and what of it the service gets to see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.agents.messages import Messages, Tool
from sandboxkit.agents.messages.conversation import MessagesConversation
from sandboxkit.agents.messages.tools.editor import Editor
from sandboxkit.errors import AgentError, AuthenticationError, InvalidSpecError
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import ScriptedModel, call, say
from tests.agents.messages_agent import KEY, agent


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker") as sandbox:
        yield sandbox


async def test_what_is_asked_for(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("one"), call("bash", command="true"), say("two"), say("three")])
    fields: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "system": "Be brief.",
        "max_tokens": 77,
        "parameters": {"temperature": 0.5},
        "cache": "1h",
    }
    async with model, Session(sandbox, agent=agent(model, **fields)) as session:
        await session.run("one")
        await session.run("two")
        await session.run("three")
        conversation = session.conversation
        assert isinstance(conversation, MessagesConversation)
        assert "cache_control" not in str(conversation.messages)
    body = model.requests[-1].body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("claude-haiku-4-5", 77, 0.5)
    mark = {"type": "ephemeral", "ttl": "1h"}
    assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": mark}]
    # The tools, the system prompt, the newest message, and the newest of the request before.
    tools = body["tools"]
    assert isinstance(tools, list)
    assert [marked(tool) for tool in tools] == [False, True]
    marks = [marked(m.content[-1].model_dump()) for m in model.requests[-1].messages]
    assert marks == [False, False, False, False, True, False, True]


async def test_without_anything(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("Hello.")])
    fields: dict[str, Any] = {"system": "", "bash": False, "editor": False, "cache": None}
    async with model, Session(sandbox, agent=agent(model, **fields)) as session:
        await session.run("Hello")
    assert "cache_control" not in str(model.requests[0].body)
    assert not {"tools", "system", "thinking"} & set(model.requests[0].body)


async def test_the_editor_fits_the_model(sandbox: Sandbox) -> None:
    for model, version in (
        ("claude-3-7-sonnet-20250219", "text_editor_20250124"),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", "text_editor_20250124"),
        ("claude-haiku-4-5", "text_editor_20250728"),
        ("claude-opus-5-5", "text_editor_20250728"),
    ):
        assert Editor(sandbox, model).definition()["type"] == version


async def test_bad_input_is_refused_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_URL", "API_KEY", "AUTH_TOKEN"):
        monkeypatch.delenv(f"ANTHROPIC_{name}", raising=False)

    async def nothing(arguments: Mapping[str, Any]) -> str:
        return ""

    def tool(name: str, kind: str = "object") -> Tool:
        return Tool(name, "", {"type": kind}, nothing)

    refused: list[tuple[dict[str, Any], str]] = [
        ({"max_tokens": 0}, "max_tokens must be 1 or more"),
        ({"max_turns": 0}, "max_turns must be"),
        ({"bash_timeout_s": 0}, "bash_timeout_s"),
        ({"parameters": {"model": "x", "stream": False}}, "holds model, stream"),
        ({"tools": [tool("bash")]}, "two tools named bash"),
        ({"upstream": sk.Anthropic(), "model_url": "http://h"}, "not both"),
    ]
    for fields, message in refused:
        with pytest.raises(InvalidSpecError, match=message):
            Messages(**fields)
    with pytest.raises(InvalidSpecError, match="cannot be the name of a tool"):
        tool("a b")
    with pytest.raises(InvalidSpecError, match="of type object"):
        tool("a", "string")
    regional = Messages(model="claude-opus-4-1", upstream=sk.Bedrock(region="eu-central-1"))
    with pytest.raises(InvalidSpecError, match="Bedrock has no global endpoint"):
        await Session("docker", agent=regional).__aenter__()
    with pytest.raises(AuthenticationError, match="There is no key"):
        await Session("docker", agent=Messages()).__aenter__()
    session = Session("docker", agent=Messages(api_key=KEY), env={"ANTHROPIC_API_KEY": "secret"})
    with pytest.raises(AgentError, match="it stays on this machine") as raised:
        await session.__aenter__()
    assert "secret" not in str(raised.value)
    assert KEY not in repr(Messages(api_key=KEY))


def marked(block: Any) -> bool:
    return "cache_control" in block
