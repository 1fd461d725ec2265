"""A prompt cancelled at random moments: the session goes on, with one agent and no leftovers."""

from __future__ import annotations

import random

import pytest

import sandboxkit as sk
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.testing import Reply, ScriptedModel, call, say
from sandboxkit.testing.scripted_model.request import ModelRequest
from tests.chaos.test_cancellation import cancelled_after

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(600)]


def answer(request: ModelRequest) -> Reply:
    """A command first, then slow words."""
    if request.tool_results:
        return Reply([say("one two three four five six")], pause_s=0.02)
    return Reply([call("Bash", command="echo working; sleep 0.1")])


@pytest.mark.parametrize("rounds", [10, pytest.param(50, marks=pytest.mark.slow)])
async def test_a_cancelled_run_leaves_a_session_that_answers(rounds: int) -> None:
    chance = random.Random(rounds)
    async with (
        ScriptedModel(answer) as model,
        sk.Session("docker", agent=ClaudeCode(model_url=model.url)) as session,
    ):
        for _ in range(rounds):
            await cancelled_after(session.run("go on"), chance.uniform(0, 0.5))
        result = await session.run("and now to the end")
        assert not result.is_error
        assert result.text == "one two three four five six"
        running = (await session.sandbox.exec(["ps", "-eo", "args"])).text
        assert running.count("claude-code/claude") == 1
        assert "sleep 0.1" not in running
