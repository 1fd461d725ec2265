"""Two hosts of one agent, one after the other, in a sandbox that was there before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandboxkit.agents import Event, TextDelta, ToolCall
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, call, say
from tests.agents.adoption.first_host import TRUTH, Attached, agent, truth

STALLED = Reply([say("one two three")], stall_after_events=4)


def long_turn(request: ModelRequest) -> Reply:
    """Two tool calls, and text before, between and after them."""
    script = (
        Reply([say("word " * 60), call("Bash", command="sleep 1; seq 3")], pause_s=0.01),
        Reply([say("more " * 60), call("Bash", command="sleep 1; echo again")], pause_s=0.01),
        Reply([say("end " * 60)], pause_s=0.01),
    )
    answered = sum(message.role == "assistant" for message in request.messages)
    return script[min(answered, 2)]


def first(sandbox: Sandbox, model: ScriptedModel, session_id: str, **options: Any) -> Attached:
    return Attached(sandbox, agent=agent(model.url, **options).durable(), id=session_id)


def second(sandbox: Sandbox, model: ScriptedModel, session_id: str, **options: Any) -> Attached:
    return Attached(sandbox, agent=agent(model.url, **options).durable(), resume=session_id)


async def follow(session: Attached, after: str | None = None) -> list[Event]:
    return [event async for event in session.follow(after)]


async def begin(
    session: Attached, until: Callable[[Event], bool]
) -> tuple[list[Event], str | None]:
    """Follow a turn until something happens, and let go; what was seen, and the position."""
    seen: list[Event] = []
    stream = session.stream("Go")
    async for event in stream:
        seen.append(event)
        if until(event):
            position = stream.position
            await session.let_go()
            return seen, position
    raise AssertionError("the turn has ended")


def is_text(event: Event) -> bool:
    return isinstance(event, TextDelta)


def is_call(event: Event) -> bool:
    return isinstance(event, ToolCall)


async def written(sandbox: Sandbox) -> str:
    return (await sandbox.files.read(TRUTH)).decode()


async def said_by_cli(sandbox: Sandbox) -> list[str]:
    return truth(await written(sandbox))
