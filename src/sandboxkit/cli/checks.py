"""What `sandboxkit doctor` finds out, on any backend."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import sandboxkit
from sandboxkit.agents.registry import agents
from sandboxkit.cli.demo import KEYS
from sandboxkit.cli.setup import setup_hint
from sandboxkit.cli.work import described
from sandboxkit.errors import SandboxError
from sandboxkit.providers.registry import providers
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.spec import Artifact

_EXECS: Final = 20
_CLI_S: Final = 60.0


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


async def check_machine() -> AsyncIterator[Check]:
    """This machine, before any backend is asked."""
    version = platform.python_version()
    system = f"{platform.system()} {platform.machine()}"
    yield Check("ok", "Python", f"{version} on {system}")
    yield Check("ok", "sandboxkit", sandboxkit.__version__)
    yield await _check_claude_code()
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


async def check_a_sandbox(provider: str) -> AsyncIterator[Check]:
    """A whole life: created, used and destroyed, with the times it took."""
    try:
        artifacts = [await claude_code()]
    except SandboxError:
        artifacts = []
    try:
        backend = providers.make(provider)
        spec = SandboxSpec.build(artifacts=artifacts)
        await backend.prepare(spec)  # not part of the times
        began = time.monotonic()
        sandbox = await Sandbox.create(backend, spec=spec)
        try:
            created = time.monotonic() - began
            execs = [(await sandbox.exec(["true"])).duration_s * 1000 for _ in range(_EXECS)]
            yield Check(
                "ok", "Sandbox", f"{sandbox.info.effective.isolation}: {described(sandbox.info)}"
            )
            for difference in {each.field: each for each in sandbox.info.differences}.values():
                found = f"{difference.field}: {difference.applied or 'no limit'}"
                yield Check("warn", "Default not met", found, difference.reason)
            for artifact in artifacts:
                yield await _check_cli(sandbox, artifact)
        finally:
            began = time.monotonic()
            await sandbox.destroy()
            destroyed = time.monotonic() - began
            await backend.aclose()
    except SandboxError as error:
        yield failed("Sandbox", error)
        return
    yield Check(
        "ok",
        "Times",
        f"create {created * 1000:.0f} ms, exec {statistics.median(execs):.1f} ms (median of "
        f"{_EXECS}), destroy {destroyed * 1000:.0f} ms",
    )


async def _check_cli(sandbox: Sandbox, artifact: Artifact) -> Check:
    done = await sandbox.exec([artifact.target, "--version"], timeout_s=_CLI_S)
    if done.exit_code != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-200:]
        advice = "Use an image with glibc, such as the default one."
        return Check("fail", "CLI in it", f"exit code {done.exit_code}: {said}", advice)
    return Check("ok", "CLI in it", done.text.strip())
