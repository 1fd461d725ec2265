"""An image without Python: commands and files work, the rest is refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import docker
import pytest

import sandboxkit as sk
from sandboxkit.errors import CommandFailedError, FileError, UnsupportedError
from sandboxkit.providers.registry import providers

TAG = "sandboxkit-tests/no-python:latest"


@pytest.fixture(scope="module")
def image(engine: str) -> Generator[str]:
    """The default image, with its Python removed."""

    async def default_image() -> str:
        async with sk.Sandbox.create("docker") as sandbox:
            return str(sandbox.info.effective.image)

    client: Any = docker.DockerClient(base_url=engine)
    base = asyncio.run(default_image())
    container = client.containers.create(
        base, ["/bin/sh", "-c", "rm -f /usr/bin/python3*"], user="0", entrypoint=""
    )
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0
        container.commit(*TAG.split(":"))
    finally:
        container.remove(force=True)
    yield TAG
    client.images.remove(TAG, force=True)
    client.close()


@pytest.fixture
async def sandbox(image: str) -> AsyncGenerator[sk.Sandbox]:
    async with sk.Sandbox.create("docker", image=image, env={"COLOUR": "blue"}) as sandbox:
        yield sandbox


async def test_the_info_says_that_there_is_no_guest(sandbox: sk.Sandbox) -> None:
    assert sandbox.info.guest is False
    reasons = [difference.reason for difference in sandbox.info.differences]
    assert any("Python" in reason for reason in reasons)


async def test_a_command_gives_the_same_result_as_with_the_guest(sandbox: sk.Sandbox) -> None:
    result = await sandbox.sh("cat; echo $COLOUR; id -u; echo bad >&2; exit 3", stdin=b"in\xff\0")
    assert result.stdout == b"in\xff\0blue\n1000\n"
    assert result.stderr == b"bad\n"
    assert result.exit_code == 3
    with pytest.raises(CommandFailedError):
        result.check()


async def test_a_time_out_ends_the_command_and_keeps_its_output(sandbox: sk.Sandbox) -> None:
    result = await sandbox.sh("echo first; sleep 345", timeout_s=1)
    assert result.timed_out
    assert result.stdout == b"first\n"
    assert "345" not in (await sandbox.sh("ps -eo args | grep '[s]leep' || true")).text


async def test_cancelling_ends_the_command(sandbox: sk.Sandbox) -> None:
    task = asyncio.ensure_future(sandbox.sh("echo $$ > started; sleep 346"))
    while (await sandbox.sh("test -s started")).exit_code:
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "346" not in (await sandbox.sh("ps -eo args | grep '[s]leep' || true")).text


async def test_files_are_written_and_read_back(sandbox: sk.Sandbox) -> None:
    content = bytes(range(256)) * 1000
    await sandbox.files.write("deep/down/a file'", content)
    assert await sandbox.files.read("deep/down/a file'") == content
    await sandbox.files.move("deep/down/a file'", "b")
    await sandbox.files.remove("deep")
    assert await sandbox.files.read("b") == content
    with pytest.raises(FileError, match="missing"):
        await sandbox.files.read("missing")


async def test_what_needs_the_guest_is_refused_with_the_remedy(
    sandbox: sk.Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="add python3"):
        await sandbox.spawn(["cat"])
    with pytest.raises(UnsupportedError, match="add python3"):
        await sandbox.files.download("b", tmp_path / "b")
    with pytest.raises(UnsupportedError, match="add python3"):
        async with sandbox.ports.forward(80):
            pass


async def test_destroying_it_leaves_nothing(image: str) -> None:
    async with sk.Sandbox.create("docker", image=image) as sandbox:
        sandbox_id = sandbox.id
    provider = providers.make("docker")
    try:
        assert sandbox_id not in {info.id async for info in provider.list({})}
    finally:
        await provider.aclose()


async def test_a_demand_that_only_the_guest_could_keep_is_refused(image: str) -> None:
    with pytest.raises(UnsupportedError, match="idle_timeout_s=60"):
        await sk.Sandbox.create("docker", image=image, idle_timeout_s=60)
