"""`Sandbox.health`: what is wrong with a machine or its guest is found; nothing is disturbed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import anyio
import anyio.to_thread
import docker
import pytest

from sandboxkit.errors import ProviderUnavailableError
from sandboxkit.health import Health
from sandboxkit.providers.base import SandboxInfo
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import MemoryProvider
from tests.providers.proxy import proxy

WAIT_S = 60.0
STALLED_S = 1.0  # the deadline where no answer comes


@pytest.fixture
def api(engine: str) -> Iterator[Any]:
    client = docker.APIClient(base_url=engine)
    yield client
    client.close()


async def until(sandbox: Sandbox, part: str, state: str) -> Health:
    """The first health in which a part has a state."""
    with anyio.fail_after(WAIT_S):
        while True:
            health = await sandbox.health()
            if health.parts[part].state == state:
                return health
            await anyio.sleep(0.1)


async def test_a_healthy_one(engine: str) -> None:
    async with Sandbox.create("docker", memory_gib=0.25) as sandbox:
        health = await sandbox.health()
        assert health.ok, health
        machine, guest = health.machine, health.guest
        assert (machine.state, guest.state) == ("ok", "ok")
        assert machine.latency_s
        assert guest.latency_s
        assert machine.details["memory_limit_bytes"] == 256 * 1024 * 1024
        used, cpu_s = machine.details["memory_used_bytes"], machine.details["cpu_s"]
        assert isinstance(used, int)
        assert 0 < used < 200 * 1024 * 1024
        assert isinstance(cpu_s, float)
        assert cpu_s > 0
        assert "MiB" in machine.reason
        assert health.agent is health.gateway is None
        assert str(health).startswith("ok: machine ok (memory ")
        assert "\n" not in str(health)
        told = json.loads(json.dumps(health.as_dict()))
        assert told["ok"]
        assert told["machine"]["details"]["memory_used_bytes"] == used
        assert told["at"].endswith("+00:00")
    after = await sandbox.health()
    assert (after.machine.state, after.guest.state) == ("absent", "absent")
    assert after.ok
    assert "closed" in after.machine.reason


async def test_a_container_that_was_killed(engine: str, api: Any) -> None:
    async with Sandbox.create("docker") as sandbox:
        await anyio.to_thread.run_sync(api.kill, sandbox.id)
        health = await until(sandbox, "guest", "ill")
        health = await until(sandbox, "machine", "ill")
        assert not health.ok
        assert "does not have it" in health.machine.reason or "stopped" in health.machine.reason
        assert health.guest.reason


async def test_a_container_that_somebody_has_paused(engine: str, api: Any) -> None:
    async with Sandbox.create("docker") as sandbox:
        await anyio.to_thread.run_sync(api.pause, sandbox.id)
        try:
            health = await sandbox.health(deadline_s=2.0)
            assert not health.ok
            assert health.machine.reason == "it is paused, and not by this host: nothing in it runs"
            assert (health.guest.state, health.guest.reason) == ("ill", "no answer within 2 s")
        finally:
            await anyio.to_thread.run_sync(api.unpause, sandbox.id)
        assert (await until(sandbox, "guest", "ok")).ok


async def test_one_that_is_paused_on_purpose_is_not_ill(engine: str) -> None:
    async with Sandbox.create("docker") as sandbox:
        await sandbox.pause()
        health = await sandbox.health()
        assert (health.machine.state, health.guest.state) == ("paused", "paused")
        assert health.ok
        assert sandbox.info.state == "paused"  # it was not woken
        await sandbox.resume()
        assert (await sandbox.health()).machine.state == "ok"


async def test_a_guest_that_hangs(engine: str, api: Any) -> None:
    async with Sandbox.create("docker") as sandbox:
        pid = await _guest_pid(api, sandbox.id)
        await _as_root(api, sandbox.id, f"kill -STOP {pid}")
        try:
            health = await sandbox.health(deadline_s=2.0)
            assert (health.machine.state, health.guest.state) == ("ok", "ill")
        finally:
            await _as_root(api, sandbox.id, f"kill -CONT {pid}")
        await until(sandbox, "guest", "ok")


async def test_a_guest_that_was_killed(engine: str, api: Any) -> None:
    async with Sandbox.create("docker") as sandbox:
        await _as_root(api, sandbox.id, f"kill -KILL {await _guest_pid(api, sandbox.id)}")
        health = await until(sandbox, "guest", "ill")
        assert not health.ok


async def test_an_engine_that_does_not_answer(engine: str) -> None:
    """Both parts are told within their deadline; the sandbox goes on when the engine does."""
    with proxy(engine) as way:
        provider = DockerProvider(host=f"tcp://127.0.0.1:{way.port}")
        async with Sandbox.create(provider) as sandbox:
            way.stalled.set()
            try:
                with anyio.fail_after(WAIT_S):
                    health = await sandbox.health(deadline_s=STALLED_S)
            finally:
                way.stalled.clear()
            assert health.machine.reason == health.guest.reason == "no answer within 1 s"
            assert (await until(sandbox, "machine", "ok")).ok
        await provider.aclose()


async def test_memory_that_is_nearly_full(engine: str) -> None:
    """It warns, and is not ill: what is restarted for it would lose its work."""
    async with Sandbox.create("docker", memory_gib=0.25) as sandbox:
        hog = "x = b'x' * (225 << 20); print(len(x), flush=True); input()"
        process = await sandbox.spawn(["python3", "-c", hog], stdin="pipe")
        assert await anext(aiter(process.stdout))
        health = await until(sandbox, "machine", "warn")
        assert health.ok
        assert "nearly full" in health.machine.reason
        await process.kill(0)
        assert (await until(sandbox, "machine", "ok")).ok


async def test_it_is_no_activity(engine: str) -> None:
    """An idle sandbox that is asked after again and again is idle all the same."""
    async with Sandbox.create("docker", idle_timeout_s=2.0) as sandbox:
        client = sandbox._client()  # pyright: ignore[reportPrivateUsage]
        client.channel({"op": "health"})  # and one that is never closed
        health = await until(sandbox, "guest", "ill")
        assert "idle" in health.guest.reason


class Odd(MemoryProvider):
    """A backend whose list fails, hangs or lies."""

    how: BaseException | str | None = None

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        if isinstance(self.how, BaseException):
            raise self.how
        if self.how == "deaf":
            while True:  # an SDK that swallows its cancellation
                try:
                    await asyncio.sleep(0.2)
                except asyncio.CancelledError:
                    if self.how == "deaf":
                        continue
                    raise
                if self.how != "deaf":
                    return
        async for info in super().list(labels):
            if self.how != "empty":
                yield info


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (ProviderUnavailableError("the service is down"), "the service is down"),
        (ZeroDivisionError("a bug"), "it cannot be looked at: ZeroDivisionError"),
        ("empty", "memory does not have it any more"),
        ("deaf", "no answer within 0.2 s"),
    ],
)
async def test_a_backend_in_trouble_is_a_finding(how: BaseException | str, reason: str) -> None:
    backend = Odd()
    async with Sandbox.create(backend) as sandbox:
        assert (await sandbox.health()).ok
        backend.how = how
        with anyio.fail_after(WAIT_S):
            health = await sandbox.health(deadline_s=0.2 if how == "deaf" else 5.0)
        backend.how = None
        assert (health.machine.state, health.machine.reason) == ("ill", reason)
        assert health.guest.ok
        assert not health.ok


async def test_leaving_it_leaves_nothing() -> None:
    backend = Odd()
    async with Sandbox.create(backend) as sandbox:
        backend.how = "deaf"
        with anyio.move_on_after(0.1) as waited:
            await sandbox.health(deadline_s=WAIT_S)
        assert waited.cancelled_caught
        backend.how = None
        assert (await sandbox.health()).ok


async def _guest_pid(api: Any, sandbox_id: str) -> str:
    """Of the process that serves: by root, past the sandbox."""
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q ' main *$' && "
    script += "echo ${p#/proc/}; done"
    return (await _as_root(api, sandbox_id, script)).split()[-1]


async def _as_root(api: Any, sandbox_id: str, script: str) -> str:
    def run() -> str:
        made = api.exec_create(sandbox_id, ["sh", "-c", script], user="0")
        return str(api.exec_start(made["Id"]).decode())

    return await anyio.to_thread.run_sync(run)
