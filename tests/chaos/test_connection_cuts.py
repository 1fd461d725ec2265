"""The connection is cut in the middle of turns: no message is lost, none comes twice."""

from __future__ import annotations

import asyncio
import random

import pytest

import sandboxkit as sk
from sandboxkit.agents import TextDelta, ToolResult
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.testing import Reply, ScriptedModel, call, say
from sandboxkit.testing.conformance.wires import WiredProvider

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(300)]

CUTS = 20
CALLS = 12
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def script() -> ScriptedModel:
    steps = [
        Reply([say(f"step {n} "), call("Bash", command=f"echo {n} | tee -a log")], pause_s=0.02)
        for n in range(CALLS)
    ]
    return ScriptedModel([*steps, Reply([say(" ".join(WORDS))], pause_s=0.02)] * 2)


async def cut_at_random(provider: WiredProvider, sandbox_id: str, cuts: list[float]) -> None:
    chance = random.Random(7)
    line = provider.line(sandbox_id)
    while len(cuts) < CUTS:
        await asyncio.sleep(chance.uniform(0.02, 0.4))
        cuts.append(line.spawned)
        line.cut()
        while line.spawned == cuts[-1]:  # a cut finds a connection, or one that begins
            await asyncio.sleep(0.01)


async def test_a_conversation_survives_twenty_cuts() -> None:
    provider = WiredProvider(DockerProvider(), None)
    cuts: list[float] = []
    async with script() as model:
        async with sk.Session(provider, agent=ClaudeCode(model_url=model.url)) as session:
            cutter = asyncio.create_task(cut_at_random(provider, session.sandbox.id, cuts))
            for turn in (1, 2):
                text, outputs = "", list[str]()
                async with session.stream("go on") as events:
                    async for event in events:
                        text += event.text if isinstance(event, TextDelta) else ""
                        if isinstance(event, ToolResult):
                            outputs.append(event.text.strip())
                assert text == "".join(f"step {n} " for n in range(CALLS)) + " ".join(WORDS)
                assert outputs == [str(n) for n in range(CALLS)]
                log = await session.sandbox.files.read_text("log")
                assert log.split() == outputs * turn
            await cutter
            assert provider.line(session.sandbox.id).spawned > CUTS
        assert not model.unused
    await provider.aclose()


async def test_a_killed_connector_is_replaced() -> None:
    """Not the connection, but the process in the sandbox that holds it."""
    provider = WiredProvider(DockerProvider(), None)
    async with sk.Sandbox.create(provider) as sandbox:
        provider.line(sandbox.id).cut()
        async with await sandbox.spawn(["cat"], stdin=sk.PIPE) as process:
            for n in range(5):
                # Until the loss is noticed, no connector is there to be killed.
                while (await sandbox.sh("pkill -9 -f ' connect$'", user="root")).exit_code:
                    await asyncio.sleep(0.02)
                piece = f"{n} ".encode() * 5000
                await process.stdin.write(piece)
                received = b""
                while len(received) < len(piece):
                    received += await process.stdout.receive()
                assert received == piece
    await provider.aclose()
