"""What the tests of the messages agent share."""

from __future__ import annotations

from typing import Any, TypeVar

from sandboxkit.agents import Event
from sandboxkit.agents.messages import Messages
from sandboxkit.testing import Reply, ScriptedModel, say

T = TypeVar("T")

EDITOR = "str_replace_based_edit_tool"
KEY = "the-real-key"
STALLED = Reply([say("one two three")], stall_after_events=4)


def agent(model: ScriptedModel, /, **fields: Any) -> Messages:
    return Messages(model_url=model.url, api_key=KEY, **fields)


def only(events: list[Event], kind: type[T]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]
