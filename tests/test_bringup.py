"""Bringing an engine up, on a dockerd beside the machine's own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from docker.context import ContextAPI

from sandboxkit.errors import ProviderUnavailableError
from sandboxkit.providers.docker.bringup import bring_up, stop_started
from sandboxkit.providers.docker.daemon import Daemon, answers
from sandboxkit.providers.docker.engine_paths import EnginePaths

pytestmark = [
    pytest.mark.usefixtures("engine"),  # which has installed what dockerd needs
    pytest.mark.skipif(sys.platform != "linux", reason="dockerd runs on Linux only"),
]


@pytest.fixture
def paths() -> Iterator[EnginePaths]:
    """An engine of the test's own, in a directory whose path fits a socket's."""
    with tempfile.TemporaryDirectory(prefix="sk-") as directory:
        paths = EnginePaths.private(Path(directory))
        yield paths
        # dockerd mounts its data on itself, and leaves that mount when it is killed.
        subprocess.run(["umount", paths.state / "data"], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with Docker."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def processes_in(paths: EnginePaths) -> list[str]:
    """The command lines of all processes that name the engine's directory."""
    return [
        command
        for command in (_command(entry) for entry in Path("/proc").glob("[0-9]*/cmdline"))
        if str(paths.state) in command
    ]


def _command(entry: Path) -> str:
    try:
        return entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


async def test_an_engine_is_started_told_of_and_stopped_with_all_its_processes(
    paths: EnginePaths,
) -> None:
    told: list[str] = []
    engine = await bring_up(progress=told.append, paths=paths)
    assert engine.daemon is not None
    assert await answers(paths.socket)
    assert str(paths.log) in " ".join(told)
    await engine.stop()
    assert not engine.daemon.alive()
    assert processes_in(paths) == []


async def test_an_engine_that_answers_is_taken_and_never_stopped(paths: EnginePaths) -> None:
    first = await bring_up(paths=paths)
    try:
        second = await bring_up(paths=paths)
        assert second.daemon is None
        await second.stop()
        assert await answers(paths.socket)
    finally:
        await first.stop()


async def test_another_process_stops_exactly_what_was_started(paths: EnginePaths) -> None:
    engine = await bring_up(paths=paths)
    assert engine.daemon is not None
    await stop_started(paths=paths)
    assert not engine.daemon.alive()
    assert await to_thread.run_sync(Daemon.recorded, paths) is None


async def test_a_record_that_names_another_process_ends_nothing(
    paths: EnginePaths, bystander: subprocess.Popen[bytes]
) -> None:
    paths.record.write_text(f'{{"pid": {bystander.pid}, "started": 1}}')
    await stop_started(paths=paths)
    assert bystander.poll() is None


async def test_pid_files_of_a_killed_engine_do_not_stand_in_the_way(
    paths: EnginePaths, bystander: subprocess.Popen[bytes]
) -> None:
    paths.containerd_pid_file.parent.mkdir(parents=True)
    for pid_file in (paths.pid_file, paths.containerd_pid_file):
        pid_file.write_text(str(bystander.pid))
    engine = await bring_up(paths=paths)
    await engine.stop()
    assert bystander.poll() is None


async def test_a_dockerd_that_cannot_start_says_why(paths: EnginePaths) -> None:
    (paths.state / "data").write_text("a file where the data directory should be")
    with pytest.raises(ProviderUnavailableError, match="canonical path points to a file"):
        await bring_up(paths=paths)
    assert processes_in(paths) == []


async def test_a_cancelled_start_leaves_no_process(paths: EnginePaths) -> None:
    with anyio.move_on_after(0.03):
        await bring_up(paths=paths)
    assert processes_in(paths) == []
    assert await to_thread.run_sync(Daemon.recorded, paths) is None


@pytest.mark.parametrize("by", ["DOCKER_HOST", "context"])
async def test_a_chosen_engine_is_complained_about_and_not_replaced(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"unix://{tmp_path}/docker.sock"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    if by == "DOCKER_HOST":
        monkeypatch.setenv("DOCKER_HOST", address)
    else:
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        (tmp_path / "config.json").write_text('{"currentContext": "elsewhere"}')
        ContextAPI.create_context("elsewhere", host=address)
    with pytest.raises(ProviderUnavailableError, match=address):
        await bring_up()
