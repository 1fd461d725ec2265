"""`sandboxkit demo`: a real agent in a real sandbox, with or without an account."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.agents.registry import agents
from sandboxkit.cli.demo_script import FILES, PROMPT, REPORT, script
from sandboxkit.cli.outcome import FAILED
from sandboxkit.cli.setup import bring_engine_up
from sandboxkit.cli.summary import Phases, print_summary
from sandboxkit.cli.terminal import complain, make_console, plain, styled
from sandboxkit.cli.work import give, watched_session
from sandboxkit.errors import PathNotFoundError
from sandboxkit.spec import SandboxSpec
from sandboxkit.testing import ScriptedModel

if TYPE_CHECKING:
    from rich.console import Console

    from sandboxkit.agents.base import Agent
    from sandboxkit.sandbox import Sandbox

KEYS: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
"""With one of these in the environment, the model is a real one."""

OUTPUT: Final = Path("sandboxkit-demo")
"""Where the report goes unless the user says otherwise."""

_MOST_TURNS = 30
_SCRIPTED = (
    "No ANTHROPIC_API_KEY is set, so the model is scripted: its words are fixed, and nothing "
    "is sent to or charged by anyone.\nThe sandbox, Claude Code in it and its tools are real."
)
_REAL = "ANTHROPIC_API_KEY is set: this talks to Claude. The key stays on this machine."


async def demo(*, provider: str, setup: bool, output: Path | None) -> int:
    """Run the demo; the exit code.

    Args:
        provider: The backend.
        setup: Whether to bring up a Docker engine where none runs.
        output: The directory for the file that the agent writes; None is `OUTPUT`, or a
            temporary one where that cannot be made.
    """
    console = make_console()
    phases = Phases()
    scripted = not any(os.environ.get(name) for name in KEYS)
    console.print(styled(f"sandboxkit demo, on {provider}", "bold"))
    console.print(styled(_SCRIPTED if scripted else _REAL, "yellow" if scripted else "dim"))
    console.print()
    if setup:
        await bring_engine_up(console, provider)
    spec = SandboxSpec()
    async with (
        _agent(spec.workdir, scripted=scripted) as agent,
        watched_session(console, provider, agent, spec, phases) as session,
    ):
        for name, content in FILES.items():
            await session.sandbox.files.write(name, content)
        result = await give(console, session, PROMPT)
        report = await _fetch(session.sandbox, output)
    phases.end()
    if report is not None:
        await _show(console, report)
    note = "scripted: nothing was charged" if scripted else ""
    print_summary(console, result, phases, cost_note=note)
    if result.is_error or report is None:
        complain("the agent did not finish: " + (" ".join(result.errors) or f"no {REPORT}."))
        return FAILED
    return 0


@contextlib.asynccontextmanager
async def _agent(workdir: str, *, scripted: bool) -> AsyncGenerator[Agent]:
    """Claude Code with its model."""
    agents.load("claude-code")  # says what to install where its package is missing
    from sandboxkit.agents.claude_code import ClaudeCode
    from sandboxkit.agents.claude_code.agent import default_options

    options = replace(default_options(), max_turns=_MOST_TURNS)
    if not scripted:
        yield ClaudeCode(options)
        return
    async with ScriptedModel(script(workdir)) as model:
        yield ClaudeCode(options, model_url=model.url)


async def _fetch(sandbox: Sandbox, output: Path | None) -> Path | None:
    """Download the agent's report; None where it wrote none."""
    directory = await _directory(output)
    try:
        return await sandbox.files.download(REPORT, directory / REPORT)
    except PathNotFoundError:
        return None


async def _directory(wanted: Path | None) -> Path:
    directory = anyio.Path(wanted or OUTPUT)
    try:
        await directory.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        if wanted is not None:
            raise
        return Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, "", "sandboxkit-demo-"))
    return Path(directory)


async def _show(console: Console, report: Path) -> None:
    content = await anyio.Path(report).read_text(encoding="utf-8", errors="replace")
    console.print()
    where = styled("The agent wrote this in the sandbox; downloaded to ", "bold")
    console.print(where.append(plain(str(report)), "bold cyan"), soft_wrap=True)
    console.print()
    for line in content.rstrip("\n").split("\n"):
        console.print(styled(f"  {line}"), soft_wrap=True)
