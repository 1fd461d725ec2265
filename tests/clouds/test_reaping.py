"""The reaper on every backend: a real guest is asked, and what a killed host left is removed."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

import sandboxkit as sk
from sandboxkit.providers.registry import providers
from sandboxkit.reaping.look import look
from sandboxkit.spec import LEASE_LABEL, OWNER_LABEL
from tests.clouds.conftest import Backend
from tests.leaks import OWNER

pytestmark = pytest.mark.timeout(300)

HOST = """
import asyncio, os, signal, sys
import sandboxkit as sk
import sandboxkit.lifecycle as lifecycle

def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)

lifecycle.GuestClient = die  # the backend has answered, and no guest is on its way yet
asyncio.run(sk.Sandbox.create(sys.argv[1], lease_s=3600)._opening)
"""


async def test_what_is_in_use_is_asked_and_left_alone(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sk.Sandbox.create(backend.name, lease_s=30) as sandbox:
        monkeypatch.setenv("SANDBOXKIT_JOURNAL", str(tmp_path / "of-another-machine.db"))
        (one,) = [one for one in await sk.reap(backend.name) if one.info.id == sandbox.id]
        assert (one.action, one.why) == ("kept", "a host holds it, or its lease still runs")
        assert one.info.labels[LEASE_LABEL] == "30"
        assert one.info.labels[OWNER_LABEL] == OWNER
        assert (await sandbox.exec(["true"])).exit_code == 0
        provider = providers.make(backend.name)
        await sandbox.destroy()
        assert await look(provider, sandbox.id) == "gone"
        await provider.destroy(sandbox.id)
        await provider.aclose()
    assert await backend.alive() == set()


async def test_what_a_host_left_that_was_killed_before_the_guest(backend: Backend) -> None:
    host = await asyncio.create_subprocess_exec(sys.executable, "-c", HOST, backend.name)
    assert await host.wait() == -signal.SIGKILL
    if backend.name == "docker":  # the end of input ends it, a moment later
        async with asyncio.timeout(20):
            while await backend.alive():
                await asyncio.sleep(0.1)
    else:
        (left,) = await backend.alive()
        (done,) = await sk.reap(backend.name)
        assert (done.info.id, done.action, done.why) == (left, "removed", "its host is gone")
    assert await backend.alive() == set()
