"""Hosts that are killed in the middle of a turn: what the store has of it in the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandboxkit.agents import Finished
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.session import Session
from sandboxkit.store import Store
from sandboxkit.store.lines import Writer
from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, call, say
from tests.session.storing_host import Wanted, session_of

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(300)]

TRANSCRIPT = "cat ~/.sandboxkit/claude-code/*/projects/*/{}.jsonl"
LONG_S = 60.0


def turn(request: ModelRequest) -> Reply:
    """Two tool calls with text around them; and then a turn without."""
    script = (
        Reply([say("word " * 60), call("Bash", command="sleep 1; seq 3")], pause_s=0.01),
        Reply([say("more " * 60), call("Bash", command="sleep 1; echo again")], pause_s=0.01),
        Reply([say("end " * 60)], pause_s=0.01),
        Reply([say("As I said.")]),
    )
    return script[sum(message.role == "assistant" for message in request.messages)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@contextlib.asynccontextmanager
async def host(wanted: Wanted) -> AsyncGenerator[None]:
    """A host that has seen something of its turn; killed at the end."""
    await anyio.Path(wanted.journal).touch()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.session.storing_host", json.dumps(asdict(wanted))
    )
    try:
        await until(lambda: child.returncode is not None or seen(wanted))
        assert child.returncode is None
        yield
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def seen(wanted: Wanted) -> list[str]:
    return Path(wanted.journal).read_text().splitlines()


async def until(holds: Callable[[], object]) -> None:
    with anyio.fail_after(LONG_S):
        while not holds():
            await asyncio.sleep(0.02)


async def kept(url: str, session_id: str) -> list[dict[str, Any]]:
    async with Store(url) as store:
        lines = store.lines(Writer(session_id))
        ((key, _, _),) = await lines.keys()
        return await lines.load(key) or []


async def said_by_cli(session: Session) -> list[dict[str, Any]]:
    """Its own file, without the lines that are for no other file."""
    text = (await session.sandbox.sh(TRANSCRIPT.format(session.id), check=True)).text
    lines = map(json.loads, text.splitlines())
    return [line for line in lines if not line["type"].startswith("api-request")]


def shown(request: ModelRequest) -> list[Any]:
    messages = [message.model_dump() for message in request.messages]
    for block in (block for message in messages for block in message["content"]):
        block.pop("cache_control", None)  # it moves to the newest
    return messages


async def followed_and_resumed(model: ScriptedModel, name: str, url: str) -> None:
    """The next host has it all, and so has one with nothing but the store."""
    async with session_of(model.url, name, url) as session:
        events = [event async for event in session.follow()]
        assert isinstance(events[-1], Finished)
        assert events[-1].result.text == "end " * 60
        assert await kept(url, session.id) == await said_by_cli(session)
        before = shown(model.requests[-1])
        await session.destroy()
    agent = ClaudeCode(model_url=model.url)
    async with Session.resume(session.id, store=url, agent=agent) as again:
        assert (await again.run("And then?")).text == "As I said."
    after = shown(model.requests[-1])
    assert after[: len(before)] == before
    answer, prompt = after[len(before) :]
    assert (answer["role"], prompt["role"]) == ("assistant", "user")
    assert "end " * 60 in str(answer)
    assert "And then?" in str(prompt)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=pytest.mark.slow if n < 3 else pytest.mark.chaos) for n in range(12)],
)
async def test_at_any_moment(name: str, url: str, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with ScriptedModel(turn) as model:
        for number in range(chance.randint(1, 3)):
            journal = str(tmp_path / f"journal-{number}")
            wanted = Wanted(model.url, name, url, journal, follow=number > 0)
            async with host(wanted):
                await asyncio.sleep(chance.uniform(0, 1.5))
        await followed_and_resumed(model, name, url)


async def test_while_the_store_does_not_answer(name: str, url: str, tmp_path: Path) -> None:
    """The host has handled more of the turn than the store has of it."""
    async with ScriptedModel(turn) as model:
        wanted = Wanted(model.url, name, url, str(tmp_path / "journal"))
        with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as database:
            async with host(wanted):
                database.execute("BEGIN IMMEDIATE")
                await until(lambda: "ToolResult" in seen(wanted))
            database.rollback()
        await followed_and_resumed(model, name, url)


async def test_while_the_application_is_busy(name: str, url: str, tmp_path: Path) -> None:
    """The store has more of the turn than the host has handled of it."""
    async with ScriptedModel(turn) as model:
        wanted = Wanted(model.url, name, url, str(tmp_path / "journal"), takes=3)
        async with host(wanted):
            await until(lambda: len(model.requests) == 3)
        assert len(seen(wanted)) == 3
        await followed_and_resumed(model, name, url)
