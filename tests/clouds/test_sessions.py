"""The real Claude Code CLI finishes the same conversation on every backend."""

from __future__ import annotations

import pytest

from sandboxkit.agents import Finished, TextDelta, ToolCall, ToolResult
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.session import Session
from sandboxkit.testing import ScriptedModel, call, say
from tests.clouds.conftest import Backend

pytestmark = pytest.mark.timeout(300)  # the first builds an image with the CLI in it


async def test_the_same_conversation_everywhere(backend: Backend) -> None:
    model = ScriptedModel(
        [
            call("Write", file_path="/tmp/notes.txt", content="one\ntwo\n"),
            call("Bash", command="wc -l < /tmp/notes.txt"),
            say("It has 2 lines."),
            call("Bash", command="echo three >> /tmp/notes.txt; cat /tmp/notes.txt"),
            say("Now it has 3."),
        ]
    )
    async with model, Session(backend.name, agent=ClaudeCode(model_url=model.url)) as session:
        first = await session.run("Write notes, and count the lines")
        events = [event async for event in session.stream("Add one more")]
        assert await session.sandbox.files.read_text("/tmp/notes.txt") == "one\ntwo\nthree\n"

    assert (first.text, first.turns, first.is_error) == ("It has 2 lines.", 3, False)
    assert [type(e) for e in events if isinstance(e, ToolCall | ToolResult)] == [
        ToolCall,
        ToolResult,
    ]
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "Now it has 3."
    (finished,) = [e for e in events if isinstance(e, Finished)]
    assert finished.result.session_id == first.session_id
    assert await backend.alive() == set()
