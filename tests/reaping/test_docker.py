"""On a real engine: killed hosts, a real guest that is asked, containers that never started."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

import sandboxkit as sk
from sandboxkit.errors import SandboxNotFoundError
from sandboxkit.journal import journal
from sandboxkit.ownership import owned
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.reaping.look import look
from sandboxkit.spec import KEY_LABEL, OWNER_LABEL
from tests.leaks import OWNER

pytestmark = pytest.mark.usefixtures("engine")

SLACK_S = 30.0
HOST = """
import asyncio, os, signal
import sandboxkit as sk
from sandboxkit.providers.docker.engine import Engine

def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)

async def main():
    {script}

asyncio.run(main())
"""


@pytest.fixture
async def provider(engine: str) -> AsyncIterator[DockerProvider]:
    provider = DockerProvider(host=engine)
    yield provider
    await provider.aclose()


@pytest.fixture
def api(engine: str) -> Iterator[Any]:
    """docker-py, to do what sandboxkit does not."""
    client = docker.APIClient(base_url=engine)
    yield client
    client.close()


async def start(script: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST.format(script=script), stdout=asyncio.subprocess.PIPE
    )


async def ours(provider: DockerProvider) -> dict[str, str]:
    return {info.id: info.state async for info in provider.list({OWNER_LABEL: OWNER})}


async def test_killed_between_create_and_start(provider: DockerProvider) -> None:
    """The container exists, and nobody has started it: it would stay for ever."""
    host = await start("Engine.open = die; await sk.Sandbox.create('docker')")
    assert await host.wait() == -signal.SIGKILL
    (container,) = await ours(provider)
    assert await ours(provider) == {container: "creating"}
    (due,) = await sk.reap(provider, dry_run=True)
    assert (due.action, due.info.id) == ("due", container)
    (done,) = await sk.reap(provider)
    assert (done.action, done.why) == ("removed", "never started, and its host is gone")
    assert await ours(provider) == {}
    assert await sk.reap(provider) == []


async def test_killed_in_use(provider: DockerProvider) -> None:
    """While its lease runs it is left alone; then it ends by itself, with nobody called."""
    host = await start(
        "box = await sk.Sandbox.create('docker', lease_s=8); print(box.id, flush=True); "
        "await asyncio.sleep(600)"
    )
    assert host.stdout is not None
    container = (await host.stdout.readline()).decode().strip()
    (living,) = await sk.reap(provider)
    assert (living.action, living.why) == ("kept", f"in use by process {host.pid}")
    host.kill()
    await host.wait()
    (left,) = await sk.reap(provider)
    assert (left.action, left.info.id) == ("kept", container)
    assert left.why == "a host holds it, or its lease still runs"
    async with asyncio.timeout(8 + SLACK_S):
        while await ours(provider):
            await asyncio.sleep(0.2)
    assert await sk.reap(provider) == []


async def test_paused_by_a_host_that_was_killed(provider: DockerProvider) -> None:
    host = await start(
        "box = await sk.Sandbox.create('docker', lease_s=60); await box.pause(); "
        "print(box.id, flush=True); await asyncio.sleep(600)"
    )
    assert host.stdout is not None
    container = (await host.stdout.readline()).decode().strip()
    assert [one.action for one in await sk.reap(provider, paused=True)] == ["kept"]
    host.kill()
    await host.wait()
    assert [one.action for one in await sk.reap(provider)] == ["kept"]
    (done,) = await sk.reap(provider, paused=True)
    assert (done.action, done.info.id) == ("removed", container)
    assert await ours(provider) == {}


async def test_a_guest_tells_of_a_host_that_this_journal_does_not_know(
    provider: DockerProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine. To be asked changes nothing for who uses the sandbox."""
    async with sk.Sandbox.create(provider, lease_s=5) as sandbox:
        process = await sandbox.spawn(["cat"], stdin=sk.PIPE)
        monkeypatch.setenv("SANDBOXKIT_JOURNAL", str(tmp_path / "other.db"))
        assert await journal().rows() == {}
        for _ in range(3):
            (one,) = await sk.reap(provider, paused=True)
            assert (one.action, one.why) == ("kept", "a host holds it, or its lease still runs")
        await process.stdin.write(b"still here")
        await process.stdin.close()
        assert await process.stdout.receive() == b"still here"
        assert await process.wait() == 0
        assert (await sandbox.exec(["true"])).exit_code == 0
    assert await look(provider, sandbox.id) == "gone"


async def test_a_guest_that_was_killed_or_never_began(provider: DockerProvider) -> None:
    """Where the guest is not the machine's main program, its end is not the machine's."""
    async with sk.Sandbox.create(provider, lease_s=60) as sandbox:
        place = "/run/sandboxkit-0"
        moved = await sandbox.sh(f"mv {place}/guest {place}/was", user="root")
        assert moved.exit_code == 0
        assert await look(provider, sandbox.id) == "absent"
        await sandbox.sh(f"echo unheld > {place}/ended", user="root")
        assert await look(provider, sandbox.id) == "ended"
        await sandbox.sh(f"rm {place}/ended; mv {place}/was {place}/guest", user="root")
        assert await look(provider, sandbox.id) == "living"


@pytest.mark.parametrize("started", [True, False])
async def test_a_container_that_cannot_be_attached_to(
    provider: DockerProvider, api: Any, started: bool
) -> None:
    spec = owned(sk.SandboxSpec())
    intent = await journal().intend("docker", provider.account(), dict(spec.labels), 60.0)
    await intent.release()

    def make() -> str:
        image = api.images("sandboxkit/base")[0]["Id"]
        made = api.create_container(image, ["/bin/true"], labels=dict(spec.labels), name=spec.key)
        if started:
            api.start(made["Id"])
            api.wait(made["Id"])
        return str(made["Id"])

    container = await asyncio.to_thread(make)
    (done,) = await sk.reap(provider)
    assert (done.action, done.info.labels[KEY_LABEL]) == ("removed", spec.key)
    await provider.destroy(container)  # gone already is success
    assert await ours(provider) == {}


async def test_what_sandboxkit_has_not_made_cannot_be_destroyed(
    provider: DockerProvider, api: Any
) -> None:
    def make() -> str:
        image = api.images("sandboxkit/base")[0]["Id"]
        return str(api.create_container(image, ["/bin/true"], name=f"foreign-{OWNER}")["Id"])

    container = await asyncio.to_thread(make)
    try:
        with pytest.raises(SandboxNotFoundError, match="not made by sandboxkit"):
            await provider.destroy(container)
        assert container[:12] not in {
            one.info.id for one in await sk.reap(provider, everyone=True, dry_run=True)
        }
    finally:
        await asyncio.to_thread(api.remove_container, container)


async def test_the_engines_clock(provider: DockerProvider) -> None:
    assert (await provider.clock()).tzinfo is not None


async def test_put_to_sleep_by_a_session_whose_host_was_killed(provider: DockerProvider) -> None:
    """Nobody would wake it: it needs no `paused=True`, once its lease is over."""
    host = await start(
        "from sandboxkit.agents.messages import Messages; "
        "agent = Messages(model_url='http://127.0.0.1:9', api_key='x'); "
        "session = sk.Session('docker', agent=agent, lease_s=3, idle_timeout_s=1, "
        "on_idle='pause'); "
        "await session.__aenter__(); await session.states.reached('paused'); "
        "print(session.sandbox.id, flush=True); await asyncio.sleep(600)"
    )
    assert host.stdout is not None
    container = (await host.stdout.readline()).decode().strip()
    await asyncio.sleep(4)  # its lease would be over, if it were not renewed
    for paused in (False, True):
        assert [one.action for one in await sk.reap(provider, paused=paused)] == ["kept"]
    host.kill()
    await host.wait()
    assert [one.action for one in await sk.reap(provider)] == ["kept"]
    async with asyncio.timeout(3 + SLACK_S):
        while [one.action for one in await sk.reap(provider)] == ["kept"]:
            await asyncio.sleep(0.2)
    assert container not in await ours(provider)
