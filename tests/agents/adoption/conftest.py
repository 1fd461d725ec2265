"""One sandbox, as two hosts have it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sandboxkit.agents.claude_code import claude_code_artifact
from sandboxkit.sandbox import Sandbox
from tests.agents.adoption.first_host import CLI, TEE


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    """With a CLI that also writes down what it says; its host speaks every second."""
    artifacts = [await claude_code_artifact()]
    async with Sandbox.create("docker", artifacts=artifacts, lease_s=6) as sandbox:
        await sandbox.files.write(CLI, TEE, mode=0o755)
        yield sandbox


@pytest.fixture
async def again(sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    """The same, as another host has it."""
    async with Sandbox.attach("docker", sandbox.id) as again:
        yield again
