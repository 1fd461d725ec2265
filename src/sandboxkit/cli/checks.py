"""What `sandboxkit doctor` finds out about this machine, and how a finding looks."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import sandboxkit
from sandboxkit.agents.registry import agents
from sandboxkit.cli.demo import KEYS
from sandboxkit.cli.setup import setup_hint
from sandboxkit.errors import SandboxError

if TYPE_CHECKING:
    from sandboxkit.spec import Artifact


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        state: `ok`; `warn`, works but with less; `fail`, does not work.
        name: What was looked at.
        found: What was found.
        advice: What to do about it.
    """

    state: Literal["ok", "warn", "fail"]
    name: str
    found: str
    advice: str = ""


def failed(name: str, error: SandboxError) -> Check:
    """A finding that is an error; its message says what to do."""
    return Check("fail", name, f"{error} ({error.code})", setup_hint(error))


async def check_machine(*, agents_matter: bool) -> AsyncIterator[Check]:
    """This machine, before any backend is asked.

    Args:
        agents_matter: Whether it is a failure that there is no agent to run.
    """
    version = platform.python_version()
    system = f"{platform.system()} {platform.machine()}"
    yield Check("ok", "Python", f"{version} on {system}")
    yield Check("ok", "sandboxkit", sandboxkit.__version__)
    agent = await _check_claude_code()
    yield agent if agents_matter or agent.state == "ok" else replace(agent, state="warn")
    if name := next((name for name in KEYS if os.environ.get(name)), None):
        yield Check("ok", "Model key", f"{name} is set; it stays on this machine")
    else:
        advice = "Set ANTHROPIC_API_KEY to run real agents; `sandboxkit demo` needs none."
        yield Check("warn", "Model key", "ANTHROPIC_API_KEY is not set", advice)


async def _check_claude_code() -> Check:
    try:
        cli = await claude_code()
    except SandboxError as error:
        return failed("Claude Code", error)
    from sandboxkit.agents.claude_code.sdk import SDK_VERSION

    found = f"CLI {cli.version} for {cli.platform}, with claude-agent-sdk {SDK_VERSION}"
    return Check("ok", "Claude Code", found)


async def claude_code() -> Artifact:
    """The CLI that a sandbox would get.

    Raises:
        SandboxError: There is none here; the message says what to do.
    """
    agents.load("claude-code")
    from sandboxkit.agents.claude_code import claude_code_artifact

    return await claude_code_artifact()
