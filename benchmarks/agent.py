"""A turn of Claude Code: in the sandbox, and as a local subprocess."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage, StreamEvent

import sandboxkit as sk
from benchmarks.measure import Row, Samples
from sandboxkit.agents.claude_code import claude_code_artifact
from sandboxkit.testing import ScriptedModel, call, say
from sandboxkit.testing.scripted_model.steps import Step

_ENV = {
    "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "IS_SANDBOX": "1",
}


async def measure(rounds: int) -> list[Row]:
    """A warm turn with one Bash call, and the time to its first event."""
    turns = 2 * (rounds + 2)
    script: list[Step] = [call("Bash", command="echo hello"), say("Done.")] * turns
    async with ScriptedModel(script) as model, inside(model) as in_sandbox, local(model) as beside:
        places = {"inside": in_sandbox, "local": beside}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
        for turn in range(rounds + 2):
            for name, client in places.items():
                took = await _turn(client)
                if turn >= 2:
                    taken[name].append(took)
    mine, theirs = taken["inside"], taken["local"]
    return [
        _row("agent turn with one command", [t for _, t in mine], [t for _, t in theirs], 1.15),
        _row("its first event", [f for f, _ in mine], [f for f, _ in theirs], None),
    ]


async def _turn(client: ClaudeSDKClient) -> tuple[float, float]:
    began = time.perf_counter()
    first = 0.0
    await client.query("go")
    async for message in client.receive_response():
        if isinstance(message, StreamEvent) and not first:
            first = time.perf_counter() - began
        if isinstance(message, ResultMessage) and message.is_error:
            raise RuntimeError(f"the agent failed: {message.result}")
    return first, time.perf_counter() - began


@asynccontextmanager
async def inside(model: ScriptedModel) -> AsyncGenerator[ClaudeSDKClient]:
    """A client whose CLI is in a sandbox without a network."""
    async with sk.Sandbox.create("docker", cpu=2, artifacts=[await claude_code_artifact()]) as box:
        options = _options({**_ENV, "ANTHROPIC_BASE_URL": model.url})
        client = ClaudeSDKClient(options, transport=sk.SandboxTransport(box, options))
        async with client:
            yield client


@asynccontextmanager
async def local(model: ScriptedModel) -> AsyncGenerator[ClaudeSDKClient]:
    """A client whose CLI is a local subprocess, with a direct connection."""
    with tempfile.TemporaryDirectory() as home:
        env = {**_ENV, "ANTHROPIC_BASE_URL": model.url, "HOME": home, "CLAUDE_CONFIG_DIR": home}
        options = _options(env)
        options.cwd = home
        async with ClaudeSDKClient(options) as client:
            yield client


def _options(env: dict[str, str]) -> ClaudeAgentOptions:
    return ClaudeAgentOptions(
        env=env, permission_mode="bypassPermissions", include_partial_messages=True
    )


def _row(what: str, ours: list[float], theirs: list[float], limit: float | None) -> Row:
    mine, reference = Samples(tuple(ours)), Samples(tuple(theirs))
    return Row(
        what,
        mine.median * 1e3,
        "ms",
        "the same CLI as a local subprocess",
        reference.median * 1e3,
        f"at most {limit}x" if limit else "",
        mine.median <= limit * reference.median if limit else None,
        mine.p95 * 1e3,
    )
