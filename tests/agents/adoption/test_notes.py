"""What a host finds in the sandbox, which may be anything."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import anyio
import pytest

from sandboxkit.agents.claude_code.note import read_mark, read_note
from sandboxkit.errors import SandboxError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import ScriptedModel, say
from tests.agents.adoption.hosts import follow, second

GOOD: dict[str, Any] = {
    "v": 1,
    "agent": "claude-code",
    "port": 4000,
    "token": "sandboxkit-0123456789abcdef0123",
    "config_dir": "/work",
    "cwd": "/work",
}


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"agent": "x"},
        {"port": 0},
        {"port": "4000"},
        {"token": "x"},
        {"token": "sandboxkit-" + "a" * 5000},
        {"config_dir": "x\n"},
        {"turn": []},
        {"turn": {"prompt_id": "x", "sent": -1}},
        {"totals": {"cost_usd": -1}},
        {"answer": []},
    ],
    ids=str,
)
def test_a_note_that_is_none(change: dict[str, Any]) -> None:
    good = {"session": str(uuid4()), **GOOD}
    assert read_note(json.dumps(good)) is not None
    assert read_note(json.dumps({**good, **change})) is None


@pytest.mark.parametrize("text", ["", "x", "[]", "null", "[" * 9000, '{"v":1}', "\ud800"])
def test_what_is_no_note_and_no_mark(text: str) -> None:
    assert read_note(text) is None
    assert read_mark(text) is None


@pytest.mark.parametrize(
    "mark",
    [{"at": [1]}, {"at": [1, -1]}, {"at": [1, 2], "answered": ["x"] * 500}, {"at": [2**60, 0]}],
    ids=str,
)
def test_a_mark_that_is_none(mark: dict[str, Any]) -> None:
    assert read_mark(json.dumps({"at": [1, 2], "answered": ["x"]})) is not None
    assert read_mark(json.dumps(mark)) is None


@pytest.mark.slow
async def test_a_process_that_is_no_cli_does_the_host_no_harm(
    sandbox: Sandbox, again: Sandbox
) -> None:
    """Its note is right, and what it says is not."""
    session_id = str(uuid4())
    turn = {"prompt_id": "x", "sent": 0}
    note = json.dumps({"session": session_id, **GOOD, "turn": turn})
    script = r"""printf '{"type":7}\n{"type":"control_request"}\n\377\n{'; exec sleep 60"""
    process = await sandbox.spawn(["sh", "-c", script], detach="lossless", note=note)
    await process.aclose()
    async with ScriptedModel([say("Mine.")]) as model:
        session = second(again, model, session_id)
        with anyio.fail_after(60):
            async with session:
                with pytest.raises((SandboxError, ValueError)):
                    await follow(session)
