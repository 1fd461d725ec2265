"""Hybrid sessions survive whatever befalls them: their words, their files, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from sandboxkit.providers.docker import DockerProvider
from sandboxkit.spec import OWNER_LABEL
from tests.chaos.hybrid import Chaos, Tally, nothing_is_left
from tests.leaks import OWNER
from tests.private_engine import private_engine

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(900)]

Remove = Callable[[Sequence[str]], Awaitable[None]]


@pytest.fixture(autouse=True)
def _own_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOXKIT_JOURNAL", str(tmp_path / "state" / "journal.db"))


def remover(host: str) -> Remove:
    """As `docker rm -f` would."""

    def remove(ids: Sequence[str]) -> None:
        api: Any = docker.APIClient(base_url=host)
        try:
            for each in ids:
                api.remove_container(each, force=True)
        except APIError:  # it has ended meanwhile
            pass
        finally:
            api.close()

    return lambda ids: asyncio.to_thread(remove, ids)


async def living(host: str) -> set[str]:
    provider = DockerProvider(host=host)
    try:
        return {info.id async for info in provider.list({OWNER_LABEL: OWNER})}
    finally:
        await provider.aclose()


async def disturbed(
    host: str, directory: Path, tally: Tally, *, agent: str, sessions: int, faults: int
) -> None:
    seed = tally.sessions
    chaos = Chaos(
        "docker",
        agent=agent,
        directory=directory / f"from-{seed}",
        sessions=sessions,
        seed=seed,
        delete=remover(host),
    )
    await chaos.run(faults, tally)


async def test_six_sessions(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    await disturbed(engine, tmp_path, tally, agent="messages", sessions=6, faults=6)
    assert len(tally.faults) == 4
    await nothing_is_left("docker", lambda: living(engine), monkeypatch)


@pytest.mark.parametrize(
    ("batches", "with_cli"),
    [
        pytest.param(1, 0, marks=pytest.mark.slow),
        pytest.param(9, 2, marks=pytest.mark.chaos, id="a hundred"),
    ],
)
async def test_many_sessions(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int, with_cli: int
) -> None:
    tally = Tally()
    for _ in range(batches):
        await disturbed(engine, tmp_path, tally, agent="messages", sessions=10, faults=8)
    for _ in range(with_cli):
        await disturbed(engine, tmp_path, tally, agent="claude-code", sessions=5, faults=6)
    print(tally)  # noqa: T201 - `pytest -rP` shows it
    assert tally.sessions == 10 * batches + 5 * with_cli
    assert tally.resumed > tally.sessions // 2
    await nothing_is_left("docker", lambda: living(engine), monkeypatch)


@pytest.mark.slow
async def test_an_engine_that_is_restarted(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with private_engine(engine) as daemon:
        host = daemon.paths.host

        async def restart() -> None:
            await daemon.stop()
            await daemon.start(deadline_s=60)

        tally = Tally()
        chaos = Chaos(
            host,
            directory=tmp_path / "batch",
            sessions=5,
            seed=1,
            delete=remover(host),
            more={"restart": restart, "restarted": restart},
        )
        await chaos.run(10, tally)
        print(tally)  # noqa: T201 - `pytest -rP` shows it
        provider = DockerProvider(host=host)
        await nothing_is_left(provider, lambda: living(host), monkeypatch)
        await provider.aclose()
