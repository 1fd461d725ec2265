"""What the agent asks its host, when that is not there any more."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from claude_agent_sdk import HookMatcher, PermissionResultAllow, create_sdk_mcp_server, tool

from sandboxkit.agents import Event, ToolResult
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import Reply, ScriptedModel, call, say
from tests.agents.adoption.first_host import key
from tests.agents.adoption.hosts import first, follow, is_call, said_by_cli, second


async def test_a_question_that_nobody_has_answered_is_asked_again(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id, asked = str(uuid4()), list[str]()
    never = asyncio.Event()

    async def silent(*_: Any) -> PermissionResultAllow:
        asked.append("first")
        await never.wait()
        return PermissionResultAllow()

    async def allow(*_: Any) -> PermissionResultAllow:
        asked.append("second")
        return PermissionResultAllow()

    @tool("add", "Add", {"a": int, "b": int})
    async def add(given: dict[str, Any]) -> dict[str, Any]:
        asked.append("add")
        return {"content": [{"type": "text", "text": str(given["a"] + given["b"])}]}

    async def hook(*_: Any) -> Any:
        asked.append("hook")
        return {}

    def options(can_use_tool: Any) -> dict[str, Any]:
        return {
            "permission_mode": "default",
            "can_use_tool": can_use_tool,
            "mcp_servers": {"sums": create_sdk_mcp_server("sums", tools=[add])},
            "hooks": {"PreToolUse": [HookMatcher(hooks=[hook])]},
        }

    one = Reply([say("So."), call("mcp__sums__add", a=1, b=2)])
    two = Reply([call("mcp__sums__add", a=20, b=22)])
    async with ScriptedModel([one, two, say("Done.")]) as model:
        async with first(sandbox, model, session_id, **options(silent)) as session:
            stream, seen = session.stream("Go"), list[Event]()
            while not (seen and is_call(seen[-1])):
                seen.append(await anext(stream))
            while "first" not in asked:
                await asyncio.sleep(0.02)
            await session.let_go()
        async with second(again, model, session_id, **options(allow)) as session:
            rest = await follow(session, stream.position)

    # The first question's hook had been answered, and was not asked again.
    assert asked == ["hook", "first", "second", "add", "hook", "second", "add"]
    assert [event.text for event in rest if isinstance(event, ToolResult)] == ["3", "42"]
    assert [key(event) for event in seen + rest] == await said_by_cli(sandbox)
