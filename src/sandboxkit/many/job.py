"""What is done with one input: a machine, the task, another machine if the first one failed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from string import Formatter
from typing import Any, Final, Generic, TypeGuard

from sandboxkit.agents.base import RunResult
from sandboxkit.errors import (
    AgentError,
    CommandFailedError,
    ExecStartError,
    FileError,
    InvalidSpecError,
    SandboxClosedError,
    SandboxDiedError,
    SandboxError,
)
from sandboxkit.failover import GOES_ON
from sandboxkit.many.outcome import I, V
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session

log = logging.getLogger(__name__)

_NOT_THE_SANDBOX: Final = (AgentError, CommandFailedError, ExecStartError, FileError)

Place = Sandbox | Session
Task = Callable[[Any, I], Awaitable[V]]


class FailedSandboxError(Exception):
    """The sandbox failed, and another one may do better; `__cause__` is what happened."""


class Job(Generic[I, V]):
    """A task, and where it runs.

    Args:
        task: Given a `Sandbox` or a `Session` of its own, and the input.
        place: Makes that, for an `async with` block.
    """

    def __init__(
        self, task: Task[I, V], place: Callable[[], AbstractAsyncContextManager[Place]]
    ) -> None:
        self._task, self._place = task, place

    async def attempt(self, value: I) -> V:
        """Do it once. Nothing is left of the sandbox afterwards.

        Raises:
            FailedSandboxError: See there.
            Exception: Whatever the task raised.
        """
        opening = self._place()
        try:
            place = await opening.__aenter__()
        except SandboxError as error:
            if may_pass(error):
                raise FailedSandboxError from error
            raise
        sandbox = place if isinstance(place, Sandbox) else place.sandbox
        try:
            return await self._task(place, value)
        except Exception as error:
            if _died(sandbox) or (isinstance(error, SandboxError) and may_pass(error)):
                raise FailedSandboxError from error
            raise
        finally:
            await _leave(opening)


def _died(sandbox: Sandbox) -> bool:
    failure = sandbox.failure
    if failure is None or isinstance(failure, SandboxClosedError):
        return False
    return failure.retryable is not False  # its own life-time would end the next one as well


def may_pass(error: SandboxError) -> bool:
    """Whether this is the failure of a sandbox or a backend, and not of what ran there."""
    if isinstance(error, _NOT_THE_SANDBOX) or error.retryable is False:
        return False
    return bool(error.retryable) or isinstance(error, (*GOES_ON, SandboxDiedError))


async def _leave(opening: AbstractAsyncContextManager[Place]) -> None:
    """End the sandbox; what the task has done counts, also where that fails."""
    try:
        await opening.__aexit__(None, None, None)
    except (SandboxError, TimeoutError) as error:
        log.warning("a sandbox could not be destroyed, and ends with its lease: %s", error)


def prompted(template: str) -> Task[Any, RunResult]:
    """The task that gives an agent a prompt.

    Args:
        template: With `{input}`; or, for inputs that are mappings, `{name}` of their keys.

    Raises:
        InvalidSpecError: It is no template, or has no place for the input.
    """
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InvalidSpecError(
            f"the prompt is no template: {error}; a brace of its own is written twice"
        ) from None
    if not names or not all(names):
        raise InvalidSpecError("the prompt must say where the input goes: {input}")

    async def run(session: Session, value: object) -> RunResult:
        result = await session.run(_filled(template, value))
        if result.over_budget is not None:
            raise result.over_budget
        return result

    return run


def _filled(template: str, value: object) -> str:
    fields: dict[Any, object] = dict(value) if _has_keys(value) else {}
    try:
        return template.format(**{"input": value, **fields})
    except (LookupError, AttributeError, ValueError, TypeError) as error:
        raise InvalidSpecError(
            f"the prompt cannot be made for this input: {type(error).__name__}: {error}"
        ) from None


def _has_keys(value: object) -> TypeGuard[Mapping[Any, object]]:
    return isinstance(value, Mapping)
