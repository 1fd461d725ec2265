"""Claude Code and the messages agent do the same work, alike, on every backend."""

from __future__ import annotations

from typing import Any

import pytest

from sandboxkit.agents import Event, Finished, Message, TextDelta, ToolCall, ToolResult, Usage
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.messages import Messages
from sandboxkit.session import Session
from sandboxkit.testing import ScriptedModel, call, say
from tests.clouds.conftest import Backend

pytestmark = pytest.mark.timeout(300)  # the first builds an image

EDITOR = "str_replace_based_edit_tool"
FILE = "/tmp/add.py"
BROKEN, MENDED = "assert 2 - 2 == 4\n", "assert 2 + 2 == 4\n"
TEST = f"python3 -B {FILE} && echo passed"
WORK: dict[type[ClaudeCode | Messages], list[Any]] = {
    ClaudeCode: [
        call("Write", file_path=FILE, content=BROKEN),
        call("Bash", command=TEST),
        call("Edit", file_path=FILE, old_string="-", new_string="+"),
        call("Bash", command=TEST),
    ],
    Messages: [
        call(EDITOR, command="create", path=FILE, file_text=BROKEN),
        call("bash", command=TEST),
        call(EDITOR, command="str_replace", path=FILE, old_str="-", new_str="+"),
        call("bash", command=TEST),
    ],
}
CALLED: list[type[Event]] = [Message, ToolCall, Message, ToolResult]


@pytest.mark.parametrize("kind", WORK)
async def test_the_same_work_alike(backend: Backend, kind: type[ClaudeCode | Messages]) -> None:
    model = ScriptedModel([*WORK[kind], say("It adds now.")])
    async with model, Session(backend.name, agent=kind(model_url=model.url)) as session:
        events = [event async for event in session.stream("Mend it")]
        assert await session.sandbox.files.read_text(FILE) == MENDED
        assert session.usage == Usage(500, 100)

    shown = (Message, ToolCall, ToolResult, TextDelta, Finished)
    kinds = [type(event) for event in events if isinstance(event, shown)]
    assert kinds == [*CALLED * 4, *[TextDelta] * 3, Message, Finished]
    results = [event for event in events if isinstance(event, ToolResult)]
    assert [result.is_error for result in results] == [False, True, False, False]
    assert results[3].text.strip() == "passed"
    assert [event.id for event in events if isinstance(event, ToolCall)] == [r.id for r in results]
    [result] = [event.result for event in events if isinstance(event, Finished)]
    assert (result.text, result.turns, result.stop_reason) == ("It adds now.", 5, "end_turn")
    assert (result.is_error, result.errors, result.session_id) == (False, (), session.id)
    said = [(message.role, message.text) for message in result.messages]
    assert said == [*[("assistant", ""), ("user", "")] * 4, ("assistant", "It adds now.")]
    assert result.usage == Usage(500, 100)
    assert result.cost_usd
    assert result.metered is not None
    assert result.latency.first_token_s is not None
    assert 0 < result.latency.tools_s < result.latency.total_s
    assert await backend.alive() == set()


async def test_a_shell_everywhere(backend: Backend) -> None:
    """What stays from call to call, and more output than is shown."""
    model = ScriptedModel(
        [
            call("bash", command="cd /tmp; x='a b'"),
            call("bash", command='pwd; echo "$x"; false'),
            call("bash", command="head -c 200000 /dev/zero | tr '\\0' x; echo end"),
            call("bash", command="exit 3"),
            call("bash", command='echo "[$x]"'),
            say("Done."),
        ]
    )
    async with model, Session(backend.name, agent=Messages(model_url=model.url)) as session:
        events = [event async for event in session.stream("Try it")]
    _, kept, much, left, new = [event.text for event in events if isinstance(event, ToolResult)]
    assert kept == "/tmp\na b\n[Exit code 1]"
    assert much.endswith("xend\n")
    assert "bytes of output left out" in much
    assert "ended with exit code 3" in left
    assert new == "[]\n"
    assert await backend.alive() == set()
