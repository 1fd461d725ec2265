"""What all tests share: a Docker engine, and the watch over blocking calls and leaks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import anyio
import pytest

from sandboxkit.errors import ProviderUnavailableError, SandboxError
from tests.blocking import watch
from tests.emulators.fixtures import daytona, e2b, modal
from tests.leaks import child_processes, claim, left_behind, things_on

if TYPE_CHECKING:
    from sandboxkit.providers.docker.bringup import RunningEngine

T = TypeVar("T")

__all__ = ["daytona", "e2b", "modal"]  # fixtures

BRING_UP_VARIABLE = "SANDBOXKIT_TESTS_BRING_UP"  # `0` forbids to install or start anything
CLOUDS = ("e2b", "modal", "daytona")  # fixtures, and parameters of `backend` and `cloud`
LONGEST = ("tests/plugin/", "tests/conformance/")
ENGINE: pytest.StashKey[RunningEngine] = pytest.StashKey()


def pytest_configure() -> None:
    claim()
    watch.install()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where pytest-xdist shares the tests out, the engine is brought up once, by who does."""
    if session.config.getoption("numprocesses", None):
        with contextlib.suppress(pytest.exit.Exception):  # each test that needs one will say why
            bring_engine_up(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs an emulated cloud is a session of its own.

    The longest files begin first: what begins last is what a run among several waits for.
    """
    for item in items:
        if needs_a_cloud(item):
            item.add_marker("clouds")
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def needs_a_cloud(item: pytest.Item) -> bool:
    """Whether a test needs an emulated cloud."""
    parameters: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    if any(parameters.get(name) in CLOUDS for name in ("backend", "cloud")):
        return True
    return not {"cloud", *CLOUDS}.isdisjoint(getattr(item, "fixturenames", ()))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Bring the engine up before the first test, whose time-out this is no part of."""
    wanted = any("engine" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly and not is_worker(session.config):
        bring_engine_up(session.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    running = config.stash.get(ENGINE, None)
    if running is not None:
        run_apart(running.stop)


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of a Docker engine; brought up where none runs, and stopped again.

    At the end of the run, nothing of sandboxkit may be left on it.
    """
    host = bring_engine_up(pytestconfig).host
    yield host
    left = left_behind(lambda: things_on(host))
    assert not left, f"The tests left on {host}: {left}"


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = frozenset(child_processes())
    yield
    left = left_behind(child_processes, before)
    assert not left, f"The tests left running: {left}"


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    watch.found.clear()
    yield
    assert not watch.found, "\n".join(watch.found)


def bring_engine_up(config: pytest.Config) -> RunningEngine:
    """The engine of this run, brought up at the first call."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    tell = print if terminal is None else terminal.write_line
    if ENGINE not in config.stash:
        try:
            config.stash[ENGINE] = run_apart(lambda: find_or_start(tell))
        except SandboxError as error:
            if is_worker(config):
                pytest.fail(str(error), pytrace=False)
            pytest.exit(str(error), 1)
    return config.stash[ENGINE]


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of those among which pytest-xdist shares the tests out."""
    return hasattr(config, "workerinput")


async def find_or_start(tell: Callable[[str], None]) -> RunningEngine:
    """An engine that has the default image, as far as that can be had."""
    from sandboxkit.providers.docker.bringup import bring_up, find_engine
    from sandboxkit.providers.docker.engine import Engine
    from sandboxkit.providers.docker.images import Images

    if os.environ.get(BRING_UP_VARIABLE) == "0" and await find_engine() is None:
        raise ProviderUnavailableError(
            f"No Docker engine answers, and {BRING_UP_VARIABLE}=0 is set."
        )
    running = await bring_up(progress=tell)
    api = Engine(running.host)
    with contextlib.suppress(SandboxError):  # the tests that need it will say why
        await Images(api).resolve(None)
    await api.aclose()
    return running


def run_apart(work: Callable[[], Awaitable[T]]) -> T:
    """Run something async in a thread of its own, so that no test's loop is disturbed."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(anyio.run, work).result()
