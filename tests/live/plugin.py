"""What makes tests on real accounts safe: asked for by name, within a budget, swept up.

`conftest.py` takes all of it. A test says whose account it needs: `pytest.mark.live("e2b")`.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import anyio
import pytest

from sandboxkit.cli.providers import look_at
from sandboxkit.errors import SandboxError, SandboxNotFoundError
from sandboxkit.ownership import owner
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.providers.registry import providers
from sandboxkit.spec import OWNER_LABEL
from sandboxkit.testing.conformance import promise
from tests.leaks import claim
from tests.live.budget import Budget, BudgetSpentError, budgeted

BUDGET: pytest.StashKey[Budget] = pytest.StashKey()
USED: pytest.StashKey[set[str]] = pytest.StashKey()
LEFT: pytest.StashKey[list[str]] = pytest.StashKey()

_needs: dict[str, str | None] = {}  # before an emulator sets a key

_WITHIN_S = 180.0  # for a promise, over the internet
_SWEEP_S = 180.0


def asked_for(config: pytest.Config) -> bool:
    """Whether this run wants live tests: `-m live`, or an expression with that word."""
    expression: str = config.option.markexpr
    return bool(re.search(r"\blive\b", expression)) and "not live" not in expression


def needs(provider: str) -> str | None:
    """What must be installed or set before the account can be used; None if nothing."""
    if provider not in _needs:
        _needs[provider] = _look(provider)
    return _needs[provider]


def _look(provider: str) -> str | None:
    backend = look_at(provider)
    if backend.error is not None or backend.missing is not None:
        return f"{provider}: {backend.error or backend.missing}"
    if backend.credentials is not None and not backend.credentials.found:
        return f"{provider}: {backend.credentials.said}"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for, or cannot be. Make a live run ready."""
    wanted = asked_for(config)
    left_out = [item for item in items if not _can_run(item, wanted=wanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    if wanted:
        claim()  # mark what this run creates
        signal.signal(signal.SIGTERM, _interrupt)  # `kill` ends it as Ctrl-C does
        promise.WITHIN_S = _WITHIN_S


def _can_run(item: pytest.Item, *, wanted: bool) -> bool:
    mark = item.get_closest_marker("live")
    return mark is None or (wanted and needs(*mark.args) is None)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what the live tests that were left out would have needed."""
    if asked_for(config):
        for name in sorted(_needs):
            if (lacking := _needs[name]) is not None:
                terminalreporter.write_line(f"left out: {lacking}", yellow=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def live(request: pytest.FixtureRequest) -> Callable[[str], SandboxProvider]:
    """Makes the real provider of a name, within the budget of the run."""
    config = request.config

    def make(name: str) -> SandboxProvider:
        used_in(config).add(name)
        return budgeted(providers.load(name), budget_of(config))

    return make


def budget_of(config: pytest.Config) -> Budget:
    """The budget of this run."""
    return config.stash.setdefault(BUDGET, Budget())


def used_in(config: pytest.Config) -> set[str]:
    """The providers that this run has used."""
    return config.stash.setdefault(USED, set())


@pytest.fixture(scope="session", autouse=True)
def no_sandbox_is_left(pytestconfig: pytest.Config) -> Iterator[None]:
    """Sweep up at the end of the tests, while pytest is as it should be."""
    yield
    sweep(pytestconfig)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """End the run when the budget is spent; it has then failed."""
    try:
        yield
    finally:
        try:
            budget_of(item.config).check_time()
        except BudgetSpentError as error:
            item.session.shouldfail = str(error)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Sweep up whatever happened: failures, Ctrl-C, `kill`, an error of pytest itself."""
    try:
        yield
    finally:
        left = sweep(session.config)
        _tell(session, left)


def _tell(session: pytest.Session, left: list[str]) -> None:
    if not used_in(session.config):
        return
    if left:
        _say(f"FAILED: the live tests had left, and it was swept up now: {left}")
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    budget = budget_of(session.config)
    _say(f"{budget.created} sandboxes were asked for, of {budget.sandboxes} at the most")


def sweep(config: pytest.Config) -> list[str]:
    """Destroy all sandboxes that this run has at its providers.

    It has a thread and providers of its own, and Ctrl-C does not stop it.

    Returns:
        All that this run had left: what was found now, and by earlier sweeps.
    """
    names, found = sorted(used_in(config)), config.stash.setdefault(LEFT, [])
    thread = threading.Thread(target=lambda: anyio.run(_sweep, names, found))
    before = signal.signal(signal.SIGINT, _have_patience)
    try:
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    return found


def _have_patience(_number: int, _frame: FrameType | None) -> None:
    _say("removing the sandboxes of the live tests: this takes a moment, and costs if skipped")


def _say(line: str) -> None:
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()


async def _sweep(names: list[str], found: list[str]) -> None:
    for name in names:
        by_hand = f"SANDBOXKIT_OWNER={owner()} sandboxkit rm --all --yes -p {name}"
        try:
            with anyio.fail_after(_SWEEP_S):
                await _sweep_one(name, found)
        except (SandboxError, TimeoutError) as error:
            found.append(f"{name}: it cannot be told ({error}); remove by hand: {by_hand}")


async def _sweep_one(name: str, found: list[str]) -> None:
    provider = providers.make(name)
    try:
        async for info in provider.list({OWNER_LABEL: owner()}):
            if info.labels.get(OWNER_LABEL) != owner():
                continue
            found.append(f"{name} {info.id}")
            try:
                await (await provider.attach(info.id)).destroy()
            except SandboxNotFoundError:
                found.pop()  # it was just ending
    finally:
        await provider.aclose()
