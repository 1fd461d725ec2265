"""`runtime="runsc"`: a kernel of its own, and all else as ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.docker import DockerProvider
from tests.private_engine import private_engine

RUNSC = shutil.which("runsc")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(RUNSC is None, reason="gVisor is not installed (Debian: apt install runsc)"),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Without gVisor's own network: old releases of it mistake new kernels' namespaces."""
    config = tmp_path / "daemon.json"
    runtime = {"path": RUNSC, "runtimeArgs": ["--network=none"]}
    config.write_text(json.dumps({"runtimes": {"runsc": runtime}}))
    return config


async def test_a_sandbox_under_gvisor(engine: str, config: Path) -> None:
    async with private_engine(engine, "--config-file", str(config)) as daemon:
        provider = DockerProvider(host=daemon.paths.host)
        async with sk.Sandbox.create(provider, runtime="runsc") as sandbox:
            assert sandbox.info.effective.isolation == "gvisor"
            assert "gVisor" in (await sandbox.exec(["dmesg"], user="root")).text
            assert (await sandbox.exec(["id", "-u"])).text == "1000\n"
            await sandbox.files.write("a", b"\0\xff" * 100_000)
            assert await sandbox.files.read("a") == b"\0\xff" * 100_000
            killed = await sandbox.sh("setsid sleep 70 & sleep 71", timeout_s=1)
            assert killed.timed_out
            assert "sleep 7" not in (await sandbox.exec(["ps", "-eo", "args"])).text
        await provider.aclose()


async def test_a_kernel_that_keeps_no_users_apart_is_not_shared(engine: str, config: Path) -> None:
    """Releases of gVisor show the environment of a process to all users; they may learn."""
    async with private_engine(engine, "--config-file", str(config)) as daemon:
        provider = DockerProvider(host=daemon.paths.host)
        async with sk.Sandbox.create(provider, runtime="runsc") as whole:
            async with await whole.spawn(["sleep", "7777"]) as process:
                look = ["cat", f"/proc/{process.pid}/environ"]
                if (await whole.exec(look, user="30000")).exit_code != 0:
                    pytest.skip("this release of gVisor keeps them apart")
            with pytest.raises(UnsupportedError, match="shows the processes of a user"):
                await sk.SharedSandbox.join(whole, user="alice")
            with anyio.fail_after(60):
                while (await whole.exec(["ls", "-A", "/home/sandboxkit"], user="0")).text:
                    await anyio.sleep(0.05)
            assert "alice" not in await whole.files.read_text("/etc/passwd")
        await provider.aclose()
