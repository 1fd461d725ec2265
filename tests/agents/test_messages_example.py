"""The example of the messages agent; it is found by its name, also without its package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from sandboxkit.agents.messages import Messages
from sandboxkit.agents.registry import agents

EXAMPLE = Path(__file__).parents[2] / "examples" / "messages_agent.py"
SAYS = """\
calls ticket
calls bash
calls str_replace_based_edit_tool
calls bash
hello-world
 600 tokens
"""


@pytest.mark.usefixtures("engine")
async def test_the_example_runs_without_an_account() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC")}
    with anyio.fail_after(90):
        done = await anyio.run_process(
            [sys.executable, "-W", "error", EXAMPLE], check=False, env=env
        )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout.decode() == SAYS


def test_the_agent_is_found_by_its_name() -> None:
    assert "messages" in agents.names()
    assert agents.load("messages") is Messages
    assert isinstance(agents.make("messages"), Messages)


def test_the_anthropic_package_is_not_imported_with_it_and_its_lack_is_named() -> None:
    code = """
import asyncio, sys
import sandboxkit as sk
agent = sk.Messages(api_key="k")
assert not {"anthropic", "h11", "httpx"} & set(sys.modules)
sys.modules["anthropic"] = None
import importlib.util
find = importlib.util.find_spec
import sandboxkit.agents.messages.agent as module
module.find_spec = lambda name: None if name == "anthropic" else find(name)
try:
    asyncio.run(sk.Session("docker", agent=agent).__aenter__())
except sk.SandboxError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == (
        "ProviderNotInstalledError the agent 'messages' needs the package 'anthropic': "
        'pip install "sandboxkit[anthropic]"\n'
    )
