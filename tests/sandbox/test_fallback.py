"""An image without Python: commands and files work, the rest is refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

import sandboxkit as sk
from sandboxkit.errors import CommandFailedError, FileError, UnsupportedError
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.providers.registry import providers
from sandboxkit.testing.conformance.wires import WiredProvider

if TYPE_CHECKING:
    from tests.emulators.daytona import DaytonaEmulator

TAG = "sandboxkit-tests/no-python:1"


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


@pytest.fixture(params=["binary", "text_lines"])
async def sandbox(image: str, request: pytest.FixtureRequest) -> AsyncGenerator[sk.Sandbox]:
    """One on a connection that carries all bytes, or lines of text alone."""
    wired = WiredProvider(DockerProvider(), request.param)
    async with sk.Sandbox.create(wired, image=image, env={"COLOUR": "blue"}) as sandbox:
        yield sandbox
    await wired.aclose()
    assert wired.foreign() == []


@pytest.fixture
async def at_daytona(image: str, daytona: DaytonaEmulator) -> AsyncGenerator[sk.Sandbox]:
    async with sk.Sandbox.create("daytona", image=image) as sandbox:
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
    await sandbox.files.remove("deep", recursive=True)
    assert await sandbox.files.read("b") == content
    with pytest.raises(FileError, match="missing"):
        await sandbox.files.read("missing")


async def test_a_file_is_written_as_was_asked(sandbox: sk.Sandbox) -> None:
    files = sandbox.files
    await files.write("log", b"one\xff", mode=0o600)
    await files.write("log", b"\0two", append=True)
    assert await files.read("log") == b"one\xff\0two"
    await sandbox.sh("ln -s log link", check=True)
    await files.write("link", "new")
    assert (await sandbox.sh("cat log; stat -c %a log; ls")).text == "new600\nlink\nlog\n"
    for refused in (
        files.write("log", "no", exclusive=True),
        files.write("no/such/file", "no", parents=False),
        files.make_dir("log", exist_ok=False),
        files.move("link", "log"),
    ):
        with pytest.raises(FileError):
            await refused
    assert await files.read("log") == b"new"


async def test_only_what_was_asked_is_removed(sandbox: sk.Sandbox) -> None:
    await sandbox.files.write("full/file", "kept")
    with pytest.raises(FileError):
        await sandbox.files.remove("full")
    assert await sandbox.files.read("full/file") == b"kept"
    await sandbox.files.remove("full", recursive=True)
    await sandbox.files.remove("full", missing_ok=True)
    with pytest.raises(FileError):
        await sandbox.files.remove("full")


async def test_every_byte_crosses_a_cloud_that_carries_text(at_daytona: sk.Sandbox) -> None:
    assert at_daytona.info.guest is False
    content = bytes(range(256)) * 500 + b"\1\1\1\2\2\2\x1e"
    await at_daytona.files.write("all", content)
    assert await at_daytona.files.read("all") == content
    result = await at_daytona.sh("cat; cat all >&2; exit 3", stdin=content)
    assert (result.stdout, result.stderr, result.exit_code) == (content, content, 3)
    result = await at_daytona.sh("printf first; sleep 347", timeout_s=1)
    assert (result.stdout, result.timed_out) == (b"first", True)
    assert "347" not in (await at_daytona.sh("ps -eo args | grep '[s]leep 3' || true")).text


async def test_an_image_that_can_carry_no_bytes_is_refused(
    image: str, engine: str, daytona: DaytonaEmulator
) -> None:
    client: Any = docker.DockerClient(base_url=engine)
    container = client.containers.create(
        image, ["/bin/sh", "-c", "rm /usr/bin/base64"], user="0", entrypoint=""
    )
    tag = f"{TAG}-nor-base64"
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0
        container.commit(*tag.split(":"))
    finally:
        container.remove(force=True)
    try:
        with pytest.raises(UnsupportedError, match="base64"):
            await sk.Sandbox.create("daytona", image=tag)
        assert daytona.sandboxes() == set()
    finally:
        client.images.remove(tag, force=True)
        client.close()


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


async def test_a_list_of_hosts_is_refused(image: str) -> None:
    with pytest.raises(UnsupportedError, match="add python3"):
        await sk.Sandbox.create(
            "docker", image=image, network=sk.NetworkPolicy.allow(["a.example"])
        )


async def test_the_messages_agent_is_refused_before_any_prompt(sandbox: sk.Sandbox) -> None:
    agent = sk.Messages(model_url="http://127.0.0.1:9", system="Be brief.")
    with pytest.raises(UnsupportedError, match="Python"):
        await sk.Session(sandbox, agent=agent).__aenter__()


async def test_a_pool_is_refused(image: str) -> None:
    async with sk.Pool("docker", size=1, image=image) as pool:
        with pytest.raises(UnsupportedError, match="a pool needs Python") as caught:
            await pool.filled()
        assert caught.value.code == "no_guest"
        assert pool.ready == pool.claimed == 0
