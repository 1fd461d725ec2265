"""The messages agent finishes the same work on every backend."""

from __future__ import annotations

import pytest

from sandboxkit.agents import Finished, TextDelta, ToolCall, ToolResult
from sandboxkit.agents.messages import Messages
from sandboxkit.session import Session
from sandboxkit.testing import ScriptedModel, call, say
from tests.clouds.conftest import Backend

EDITOR = "str_replace_based_edit_tool"

pytestmark = pytest.mark.timeout(300)  # the first builds an image


async def test_the_same_work_everywhere(backend: Backend) -> None:
    model = ScriptedModel(
        [
            call(EDITOR, command="create", path="/tmp/add.py", file_text="print(2 - 2)\n"),
            call("bash", command="cd /tmp; test $(python3 -B add.py) = 4"),
            call(EDITOR, command="str_replace", path="/tmp/add.py", old_str="-", new_str="+"),
            call("bash", command="test $(python3 -B add.py) = 4 && pwd"),
            say("It adds now."),
            call("bash", command="head -c 200000 /dev/zero | tr '\\0' x; echo end"),
            say("Long."),
        ]
    )
    async with model, Session(backend.name, agent=Messages(model_url=model.url)) as session:
        events = [event async for event in session.stream("Mend it")]
        long = await session.run("Say much")
        assert await session.sandbox.files.read_text("/tmp/add.py") == "print(2 + 2)\n"

    results = [e for e in events if isinstance(e, ToolResult)]
    assert [e.is_error for e in results] == [False, True, False, False]
    assert (results[1].text, results[3].text) == ("[Exit code 1]", "/tmp\n")
    assert [e.id for e in events if isinstance(e, ToolCall)] == [e.id for e in results]
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "It adds now."
    [finished] = [e for e in events if isinstance(e, Finished)]
    result = finished.result
    assert (result.text, result.turns, result.is_error) == ("It adds now.", 5, False)
    assert result.metered is not None
    assert result.metered.usage == result.usage
    assert long.text == "Long."
    [much] = model.requests[-1].tool_results
    assert much.text.endswith("xend\n")
    assert "bytes of output left out" in much.text
    assert await backend.alive() == set()
