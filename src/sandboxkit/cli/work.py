"""A prompt given to an agent in a sandbox of its own, watched from the start to the end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from sandboxkit.admission import admit
from sandboxkit.agents.events import Finished
from sandboxkit.cli.live import Live
from sandboxkit.cli.steps import Steps
from sandboxkit.cli.terminal import styled
from sandboxkit.errors import AgentError
from sandboxkit.providers.registry import providers
from sandboxkit.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from sandboxkit.agents.base import Agent, RunResult
    from sandboxkit.cli.summary import Phases
    from sandboxkit.providers.base import SandboxInfo, SandboxProvider
    from sandboxkit.spec import SandboxSpec
    from sandboxkit.store import Store


@contextlib.asynccontextmanager
async def watched_session(
    console: Console,
    provider_name: str | None,
    agent: Agent,
    spec: SandboxSpec,
    phases: Phases,
    *,
    name: str | None = None,
    store: Store | None = None,
    resume: str | None = None,
) -> AsyncGenerator[Session]:
    """A session whose slow steps are shown, and whose times are noted in `phases`.

    Args:
        console: Where they are shown.
        provider_name: The backend; None is the default one, or that of the session to resume.
        agent: The agent.
        spec: What the sandbox shall be; for a session to resume, what wins over what it had.
        phases: Where the times go.
        name: The name of a session that lives on; None is one that ends with the block.
        store: Where the session is kept; None is nowhere.
        resume: The session in it that goes on.

    Raises:
        SandboxError: As `Session` does.
    """
    backend = provider_name or (None if resume else "docker")
    provider = None if backend is None else providers.make(backend)
    session = Session(provider, agent=agent, spec=spec, name=name, store=store, resume=resume)
    try:
        async with contextlib.AsyncExitStack() as stack:
            with Steps(console) as steps:
                if provider is not None and resume is None:
                    await _prepare(steps, provider, agent, spec, phases)
                with steps.step("starting a sandbox and the agent in it"):
                    await stack.enter_async_context(session)
                phases.create, phases.connect = session.create_s, session.connect_s
                info = session.sandbox.info
                steps.done(f"sandbox {info.id}", phases.create, described(info))
                steps.done("agent connected", phases.connect)
            yield session
        phases.close = session.close_s
    finally:
        if provider is not None:
            await provider.aclose()


async def _prepare(
    steps: Steps, provider: SandboxProvider, agent: Agent, spec: SandboxSpec, phases: Phases
) -> None:
    """What would be done in the creation as well, here to be shown and timed apart."""
    with steps.step("preparing the image and the agent"):
        wanted = await agent.prepare(spec)
        admit(wanted, provider.capabilities(), provider.name)
        await provider.prepare(wanted)
    phases.prepare = phases.passed()
    steps.done("image and agent ready", phases.prepare)


def described(info: SandboxInfo) -> str:
    """What really holds for a sandbox, in a few words."""
    real = info.effective
    words = (
        (real.cpu, f"{real.cpu:g} CPU" if real.cpu else ""),
        (real.memory_gib, f"{real.memory_gib:g} GiB" if real.memory_gib else ""),
        (real.pids, f"{real.pids} pids"),
        (real.network, "no network" if real.network == "none" else "network"),
        (real.user, f"user {real.user}"),
    )
    return ", ".join(text for known, text in words if known)


async def give(console: Console, session: Session, prompt: str) -> RunResult:
    """Give the agent a prompt, and show what it does.

    Raises:
        SandboxError: As `Session.run` does.
    """
    console.print()
    console.print(styled(f"› {prompt}", "bold"))  # noqa: RUF001 - a mark, not a bracket
    live = Live(console)
    result: RunResult | None = None
    try:
        async with session.stream(prompt) as events:
            async for event in events:  # to its end: else the next host gets the last one again
                live.show(event)
                if isinstance(event, Finished):
                    result = event.result
    finally:
        live.end_line()
    if result is None:
        raise AgentError("The agent ended without a result.")
    return result
