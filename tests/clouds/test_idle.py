"""A session that sleeps, on every backend, in each way that it claims."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Literal

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.errors import ImageError, UnsupportedError
from sandboxkit.providers.registry import providers
from sandboxkit.session import Session
from sandboxkit.store import Store
from sandboxkit.testing import ScriptedModel, call, say
from tests.clouds.conftest import Backend

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

LONG_S = 120.0
How = Literal["pause", "snapshot", "save"]


async def claims(backend: Backend, how: How) -> bool:
    provider = providers.make(backend.name)
    can = provider.capabilities()
    await provider.aclose()
    return {"pause": can.pause, "snapshot": can.snapshot, "save": True}[how]


@pytest.mark.parametrize("how", ["pause", "snapshot", "save"])
async def test_it_sleeps_and_wakes(backend: Backend, how: How, tmp_path: Path) -> None:
    model = ScriptedModel(
        [
            *(call("Bash", command="echo one > file; echo done"), say("A violin.")),
            *(call("Bash", command="cat file"), say("As I said.")),
        ]
    )
    async with model, Store(f"sqlite:///{tmp_path}/store.db") as store:
        session = Session(
            backend.name,
            agent=ClaudeCode(model_url=model.url),
            store=store if how == "save" else None,
            idle_timeout_s=1.0,
            on_idle=how,
        )
        if not await claims(backend, how):
            with pytest.raises(UnsupportedError, match=f"cannot {how}"):
                await session.__aenter__()
            await session.aclose()
            assert await backend.alive() == set()
            return
        async with session:
            first = await session.run("Name an instrument")
            with anyio.fail_after(LONG_S):
                await session.states.reached("paused", "saved")
            assert len(await backend.alive()) == (1 if how == "pause" else 0)
            second = await session.run("Which one?")
            assert second.text == "As I said."
            assert second.session_id == first.session_id
            assert await session.sandbox.files.read_text("file") == "one\n"
    said = json.dumps([message.model_dump() for message in model.requests[-1].messages])
    for part in ("Name an instrument", "A violin.", "Which one?", '"one'):
        assert part in said
    assert await backend.alive() == set()


HOST = """
import asyncio, sys
from sandboxkit.agents.messages import Messages
from sandboxkit.session import Session

async def main():
    agent = Messages(model_url="http://127.0.0.1:9", api_key="not-used")
    options = {"agent": agent, "idle_timeout_s": 1.0, "on_idle": "snapshot"}
    async with Session(sys.argv[1], **options) as session:
        await session.states.reached("saved")
        print("asleep", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_the_image_of_a_host_that_was_killed_is_removed(backend: Backend) -> None:
    if not await claims(backend, "snapshot"):
        return
    host = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOST, backend.name), stdout=asyncio.subprocess.PIPE
    )
    assert host.stdout is not None
    assert await host.stdout.readline() == b"asleep\n"
    assert await sk.reap(backend.name) == []  # its host lives, and may wake from it
    host.kill()
    await host.wait()
    (due,) = await sk.reap(backend.name, dry_run=True)
    async with sk.Sandbox.create(backend.name, image=due.info.id) as sandbox:
        assert (await sandbox.exec(["true"])).exit_code == 0
    (done,) = [one for one in await sk.reap(backend.name) if one.action == "removed"]
    assert (due.action, due.info.id, due.why) == ("due", done.info.id, done.why)
    with pytest.raises(ImageError):
        await sk.Sandbox.create(backend.name, image=due.info.id)
    assert await sk.reap(backend.name) == []
