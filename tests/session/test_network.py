"""A named session behind a list of hosts: its way out, from one host to the next."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterator

import pytest

import sandboxkit as sk
from sandboxkit.agents import Finished
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.testing import ScriptedModel, call, say
from tests.gateway.world import PUBLIC, Origin, World

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(200)]

# It asks when its connection to the proxy ends: when the host is gone that kept it.
PATIENT = """
import os, socket, subprocess, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["https_proxy"])
held = socket.create_connection((proxy.hostname, proxy.port))
open("began", "w").close()
try:
    held.recv(1)
except OSError:
    pass
subprocess.run(["curl", "-sS", "-m", "60", "http://api.example.com/"])
"""
HOST = """
import asyncio, sys
import sandboxkit as sk
from sandboxkit.agents.claude_code import ClaudeCode

async def main():
    agent = ClaudeCode(model_url=sys.argv[2])
    network = sk.NetworkPolicy.allow(["api.example.com"])
    async with sk.Session("docker", name=sys.argv[1], agent=agent, network=network) as session:
        turn = asyncio.create_task(session.run("What does it say?"))
        while not await session.sandbox.files.exists("began"):
            await asyncio.sleep(0.1)
        print("began", flush=True)
        await turn

asyncio.run(main())
"""


@pytest.fixture
def gateway() -> Iterator[sk.Gateway]:
    origin = Origin()
    world = World(names={"api.example.com": [PUBLIC]}, places={(PUBLIC, 80): origin.port})
    yield sk.Gateway(resolve=world.resolve, dial=world.dial)
    origin.close()


async def test_a_tool_that_asks_while_no_host_is_there_gets_its_answer(
    name: str, gateway: sk.Gateway
) -> None:
    command = f"python3 -c {shlex.quote(PATIENT)}"
    async with ScriptedModel([call("Bash", command=command), say("It says hello.")]) as model:
        host = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HOST, name, model.url), stdout=asyncio.subprocess.PIPE
        )
        assert host.stdout is not None
        assert await host.stdout.readline() == b"began\n"
        host.kill()
        await host.wait()
        agent = ClaudeCode(model_url=model.url)
        async with sk.Session("docker", name=name, agent=agent, gateway=gateway) as session:
            events = [event async for event in session.follow()]
            assert isinstance(events[-1], Finished)
            assert events[-1].result.text == "It says hello."
        assert "hello from api.example.com" in str(model.requests[-1].messages[-1])
