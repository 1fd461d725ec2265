"""`sandboxkit run`: one prompt for a real agent in a fresh sandbox."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import anyio

from sandboxkit.agents.registry import agents
from sandboxkit.cli.outcome import FAILED
from sandboxkit.cli.sessions import go_on, opened
from sandboxkit.cli.summary import Phases, print_summary
from sandboxkit.cli.terminal import complain, make_console, plain, styled
from sandboxkit.cli.work import give, watched_session
from sandboxkit.errors import InvalidSpecError

if TYPE_CHECKING:
    from sandboxkit.agents.base import Agent
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.spec import SandboxSpec


@dataclass(frozen=True, slots=True)
class Transfers:
    """What goes into the sandbox before the run, and what is fetched after it.

    Attributes:
        upload: A file, or a directory whose content goes to the work directory.
        download: Paths in the sandbox.
        output: The directory for them on this machine.
    """

    upload: Path | None = None
    download: Sequence[str] = ()
    output: Path = Path()


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the session is kept.

    Attributes:
        url: The store's database; None is the default one.
        files: Where its files are; None is beside it.
        resume: The session that goes on; None begins one.
    """

    url: str | None = None
    files: str | None = None
    resume: str | None = None


async def run(
    prompt: str,
    *,
    provider: str | None,
    spec: SandboxSpec,
    model: str | None,
    max_turns: int | None,
    transfers: Transfers,
    name: str | None = None,
    kept: Kept | None = None,
) -> int:
    """Run a prompt; the exit code.

    On a terminal, all is shown there. Where stdout is something else, it gets the final
    answer alone, and the rest goes to stderr.

    Args:
        prompt: What the agent shall do.
        provider: The backend; None is Docker, or the one that a kept session was on.
        spec: What the sandbox shall be.
        model: The model; None is the agent's own.
        max_turns: The most that it is asked.
        transfers: Files in and out.
        name: The name of a session that lives on; None is one that ends here.
        kept: Where the session is kept; None is nowhere.
    """
    phases = Phases()
    agent = _claude_code(model, max_turns)
    if transfers.upload is not None and not transfers.upload.exists():
        raise InvalidSpecError(f"--upload: there is nothing at {str(transfers.upload)!r}")
    on_terminal = sys.stdout.isatty()
    console = make_console(stderr=not on_terminal)
    async with contextlib.AsyncExitStack() as stack:
        store = None
        if kept is not None:
            store = await stack.enter_async_context(opened(kept.url, kept.files))
        resume = None if kept is None else kept.resume
        session = await stack.enter_async_context(
            watched_session(
                console, provider, agent, spec, phases, name=name, store=store, resume=resume
            )
        )
        if transfers.upload is not None:
            await _upload(session.sandbox, transfers.upload)
        result = await give(console, session, prompt)
        for path in transfers.download:
            local = await session.sandbox.files.download(path, _target(path, transfers.output))
            console.print(styled(f"\n  downloaded {path} to {local}", "cyan"), soft_wrap=True)
    phases.end()
    print_summary(console, result, phases)
    if kept is not None:
        console.print(styled(f"\n  {go_on(session.id, kept.url)}", "cyan"), soft_wrap=True)
    if not on_terminal:
        sys.stdout.write(plain(result.text) + "\n")
    if result.is_error:
        complain("the agent did not finish: " + (" ".join(result.errors) or result.stop_reason))
        return FAILED
    return 0


def _claude_code(model: str | None, max_turns: int | None) -> Agent:
    agents.load("claude-code")  # says what to install where its package is missing
    from sandboxkit.agents.claude_code import ClaudeCode
    from sandboxkit.agents.claude_code.agent import default_options

    return ClaudeCode(replace(default_options(), model=model, max_turns=max_turns))


async def _upload(sandbox: Sandbox, local: Path) -> None:
    is_file = await anyio.Path(local).is_file()
    await sandbox.files.upload(local, local.name if is_file else sandbox.workdir)


def _target(path: str, output: Path) -> Path:
    name = PurePosixPath(path).name
    if name in {"", ".."}:
        raise InvalidSpecError(f"--download: {path!r} has no name to be kept under")
    return output / name
