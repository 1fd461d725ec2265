"""`map`: one task over many inputs, the outcomes as they come."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, overload

from sandboxkit.agents.base import Agent, RunResult
from sandboxkit.agents.registry import agents
from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway.model.budget import Budget
from sandboxkit.limits import WAIT_S
from sandboxkit.many.bar import Bar, make_bar
from sandboxkit.many.inputs import Inputs
from sandboxkit.many.job import Job, Task, prompted
from sandboxkit.many.journal import Journal
from sandboxkit.many.outcome import I, MapProgress, Outcome, V
from sandboxkit.many.places import Places
from sandboxkit.many.run import Run
from sandboxkit.pool.pool import Pool
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.spec import SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.failover import OneProvider
    from sandboxkit.gateway.model.meter import Price
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.settings import Gateway


class Mapped(Generic[I, V]):
    """The outcomes of a `map`, for `async for`, as they come.

    It begins with the first outcome that is asked for. If it is left before the end, by
    `break`, by an exception, by cancellation or by `aclose`, what is under way is cancelled
    and its sandboxes are destroyed; `async with` waits until that is done.
    """

    def __init__(self, run: Run[I, V]) -> None:
        self._run = run
        weakref.finalize(self, run.stop_soon).atexit = False

    def __repr__(self) -> str:
        return f"<Mapped {self.progress}>"

    @property
    def progress(self) -> MapProgress:
        """How far it is."""
        return self._run.progress

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome[I, V]:
        return await self._run.next()

    async def aclose(self) -> None:
        """Cancel what is under way, and wait until nothing of it is left. Idempotent."""
        await self._run.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


@overload
def map(  # noqa: A001
    task: str,
    inputs: Iterable[I] | AsyncIterable[I],
    *,
    provider: OneProvider | Sequence[OneProvider] | Pool,
    agent: str | Agent | None = None,
    **options: Any,
) -> Mapped[I, RunResult]: ...


@overload
def map(  # noqa: A001
    task: Callable[[Sandbox, I], Awaitable[V]],
    inputs: Iterable[I] | AsyncIterable[I],
    *,
    provider: OneProvider | Sequence[OneProvider] | Pool,
    agent: None = None,
    **options: Any,
) -> Mapped[I, V]: ...


@overload
def map(  # noqa: A001
    task: Callable[[Session, I], Awaitable[V]],
    inputs: Iterable[I] | AsyncIterable[I],
    *,
    provider: OneProvider | Sequence[OneProvider] | Pool,
    agent: str | Agent,
    **options: Any,
) -> Mapped[I, V]: ...


def map(  # noqa: A001 - as the builtin, `sk.map(task, inputs)`
    task: str | Task[I, Any],
    inputs: Iterable[I] | AsyncIterable[I],
    *,
    provider: OneProvider | Sequence[OneProvider] | Pool,
    agent: str | Agent | None = None,
    concurrency: int = 8,
    retries: int = 2,
    budget: Budget | Sequence[Budget] = (),
    models: Sequence[str] | None = None,
    prices: Mapping[str, Price] | None = None,
    journal: str | Path | None = None,
    progress: bool = False,
    on_progress: Callable[[MapProgress], None] | None = None,
    spec: SandboxSpec | None = None,
    secrets: Sequence[Secret] = (),
    gateway: Gateway | None = None,
    wait_s: float = WAIT_S,
    **fields: Any,
) -> Mapped[I, Any]:
    """Do one task for many inputs, several at once, each in a sandbox of its own.

    ```python
    async with sk.map("Fix the bug in {input}", issues, provider="docker") as outcomes:
        async for outcome in outcomes:
            print(outcome.index, outcome.error or outcome.result().text)
    ```

    Outcomes come as they are ready, not in the order of the inputs. An input is read when
    there is somebody to work on it, and at most twice `concurrency` of them are held, so
    the inputs may be endless.

    Args:
        task: An async function, called with a `Sandbox` (or, where an `agent` is given, a
            `Session`) and the input; what it returns is the outcome's value. Or a prompt for
            an agent, with `{input}` where the input goes, or `{name}` for the keys of inputs
            that are mappings; the value is the `RunResult`.
        inputs: The inputs. An iterator is asked on the event loop, and must not block it.
        provider: The backend, or a list of them, as for `Sandbox.create`; or a `Pool`, of
            which a machine is claimed for each.
        agent: The agent of the sessions; None is `claude-code` for a prompt, and no session
            for a function.
        concurrency: How many inputs are worked on at once.
        retries: How often the task is begun again, in another sandbox, where the sandbox or
            the backend has failed. What the task or the agent does wrong is not tried again.
        budget: What may be spent on the model for all inputs together. Once it is spent, no
            input is begun any more: their error is the `BudgetExceededError`.
        models: As for `Session`; so is `prices`.
        prices: See `models`.
        journal: A file of this machine in which each value is kept, so that a second run
            gives it without doing the work again (`Outcome.resumed`), where index and input
            are the same. Inputs with an error are done again. Of a `RunResult` it has all
            but `messages`, `metered` and `raw`. A function must return what JSON gives back
            as it was. Without encryption, readable by its owner alone.
        progress: Whether to show a bar while it goes on: on stderr where that is a terminal
            (by rich, of the extra `cli`), below the cell in Jupyter, and else nowhere.
        on_progress: Called with each change, on the event loop.
        spec: What the sandboxes shall be.
        secrets: As for `Sandbox.create`; so are `gateway` and `wait_s`.
        gateway: See `secrets`.
        wait_s: See `secrets`.
        **fields: Single fields of the spec; for a `Pool`, `env` and `network`.

    Returns:
        The outcomes. From its iteration are raised, and end it: what the inputs raise; an
        unknown or unfit backend; a journal that is in use, another task's, or cannot be
        written; an input or a value that the journal cannot keep (`InvalidSpecError`).

    Raises:
        InvalidSpecError: A value is wrong, or some do not go together.
        ImportError: `progress` needs rich, which is not installed.
    """
    if concurrency < 1 or retries < 0:
        raise InvalidSpecError("concurrency must be 1 or more, and retries 0 or more")
    budgets = (budget,) if isinstance(budget, Budget) else tuple(budget)
    function: Task[I, Any] = prompted(task) if isinstance(task, str) else task
    if isinstance(task, str) and agent is None:
        agent = "claude-code"
    places = Places(
        provider,
        agents.make(agent) if isinstance(agent, str) else agent,
        spec=spec,
        budgets=budgets,
        models=models,
        prices=prices,
        secrets=secrets,
        gateway=gateway,
        wait_s=wait_s,
        fields=fields,
    )

    bar = make_bar() if progress else Bar()

    async def begin(opened: contextlib.AsyncExitStack) -> Job[I, Any]:
        bar.show(run.progress)
        opened.enter_context(bar)
        return Job(function, await places.begin(opened))

    kept = None if journal is None else Journal(journal, task if isinstance(task, str) else None)
    run = Run(
        Inputs(inputs),
        begin,
        concurrency=concurrency,
        retries=retries,
        budgets=budgets,
        journal=kept,
        listeners=(bar.show,) if on_progress is None else (bar.show, on_progress),
    )
    return Mapped(run)
