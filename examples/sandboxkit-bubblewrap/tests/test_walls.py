"""What the conformance kit cannot know: the walls that bubblewrap makes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from sandboxkit_bubblewrap import BubblewrapProvider

from sandboxkit import Sandbox
from sandboxkit.errors import ProviderUnavailableError, UnsupportedError
from sandboxkit.providers.base import ByteChannel, Command

# Asks whether it may be written, and never writes: these are the machine's own.
WRITABLE_SETTINGS = """
import os
for top, _, names in os.walk("/proc/sys"):
    for path in (os.path.join(top, name) for name in names):
        if os.access(path, os.W_OK):
            print(path)
"""
PRIVILEGES = ["grep", "-E", "^(Uid|CapPrm|CapEff|CapAmb|NoNewPrivs):", "/proc/self/status"]
NONE = "Uid: 1000 1000 1000 1000 CapPrm: {0} CapEff: {0} CapAmb: {0} NoNewPrivs: 1".format("0" * 16)


@pytest.fixture
def provider(tmp_path: Path) -> BubblewrapProvider:
    return BubblewrapProvider(tmp_path / "state")


@pytest.fixture
async def sandbox(provider: BubblewrapProvider) -> AsyncIterator[Sandbox]:
    async with Sandbox.create(provider) as sandbox:
        yield sandbox


async def everything(channel: ByteChannel) -> str:
    said = b""
    while (output := await channel.receive()) is not None:
        said += output.data
    assert await channel.wait() == 0
    await channel.aclose()
    return said.decode()


async def test_no_setting_of_the_kernel_can_be_written(sandbox: Sandbox) -> None:
    assert (await sandbox.exec(["python3", "-c", WRITABLE_SETTINGS], check=True)).text == ""


async def test_there_are_no_privileges(provider: BubblewrapProvider, sandbox: Sandbox) -> None:
    assert (await sandbox.exec(PRIVILEGES)).text.split() == NONE.split()
    # Also what does not come through the guest, but is started from outside.
    entered = await (await provider.attach(sandbox.id)).spawn(Command(argv=tuple(PRIVILEGES)))
    assert (await everything(entered)).split() == NONE.split()


async def test_the_machines_files_are_not_there_or_read_only(sandbox: Sandbox) -> None:
    for path in (str(Path(__file__)), "/root", "/sys", "/var", "/etc/hostname"):
        assert not await sandbox.files.exists(path)
    for path in ("/usr/bin/new", "/etc/passwd", "/new", "/dev/new"):
        assert (await sandbox.exec(["touch", path])).exit_code != 0


async def test_without_a_network_there_is_only_the_loopback(sandbox: Sandbox) -> None:
    lines = (await sandbox.files.read_text("/proc/net/dev")).splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


async def test_only_its_own_processes_are_seen(sandbox: Sandbox) -> None:
    seen = (await sandbox.sh("cat /proc/[0-9]*/comm")).text.split()
    assert set(seen) <= {"bwrap", "python3", "sh", "cat"}


async def test_nothing_is_left_when_nobody_holds_it(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    sandbox = await Sandbox.create(provider)
    # Some of it is shut, even to its own user.
    await sandbox.sh("mkdir -p a/b; touch a/b/c; chmod 0 a/b a", check=True)
    await sandbox.detach(keep_s=0.1)
    while await anyio.Path(tmp_path, "state", sandbox.id).exists():  # noqa: ASYNC110
        await anyio.sleep(0.05)
    assert [info async for info in provider.list({})] == []


async def test_what_bubblewrap_refuses_is_said_and_leaves_nothing(
    provider: BubblewrapProvider,
) -> None:
    with pytest.raises(ProviderUnavailableError, match="Read-only file system"):
        await Sandbox.create(provider, workdir="/usr/work")
    with pytest.raises(UnsupportedError, match="the one user 1000"):
        await Sandbox.create(provider, user="0")
    assert [info async for info in provider.list({})] == []


async def test_a_missing_bubblewrap_is_said(
    provider: BubblewrapProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProviderUnavailableError, match="apt-get install bubblewrap"):
        await Sandbox.create(provider)
