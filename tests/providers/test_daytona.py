"""Daytona's own traps: its key, its sizes, its snapshots, and what it keeps."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import pytest_asyncio

from sandboxkit.errors import (
    AuthenticationError,
    ImageError,
    ProviderUnavailableError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.progress import Progress
from sandboxkit.providers.base import Command
from sandboxkit.providers.daytona import DaytonaProvider, handle
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import KEY_LABEL, Artifact
from tests.emulators.daytona import DaytonaEmulator

IMAGE = "debian:12.10"


@pytest_asyncio.fixture
async def provider(daytona: DaytonaEmulator) -> AsyncIterator[DaytonaProvider]:
    daytona.faults.clear()
    made = DaytonaProvider()
    yield made
    await made.aclose()
    assert daytona.sandboxes() == set()


async def asked(daytona: DaytonaEmulator, path: str) -> Any:
    """What the service itself says."""
    headers = {"Authorization": f"Bearer {daytona.key}"}
    request = urllib.request.Request(f"{daytona.url}{path}", headers=headers)

    def ask() -> Any:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    return await anyio.to_thread.run_sync(ask)


def artifact(tmp_path: Path, version: str = "1") -> Artifact:
    source = tmp_path / "tool"
    source.write_text("#!/bin/sh\necho brought along\n")
    source.chmod(0o644)
    return Artifact(
        name="tool",
        version=version,
        platform="linux-x86_64",
        source=source,
        target="/opt/kit/tool",
    )


# what is known without the service


def test_nothing_of_the_sdk_is_imported_before_it_is_used() -> None:
    script = """
import sys
from sandboxkit.providers.daytona import DaytonaProvider
provider = DaytonaProvider(api_key="k")
provider.capabilities(), provider.credentials(), provider.missing(), provider.account()
assert not {"daytona", "daytona_sdk", "aiohttp", "socketio"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_deprecated_twin_does_not_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert DaytonaProvider.missing() is None
    (tmp_path / "daytona_sdk").mkdir()
    (tmp_path / "daytona_sdk/__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "daytona_sdk", raising=False)
    monkeypatch.setitem(sys.modules, "daytona", None)
    said = DaytonaProvider.missing()
    assert said is not None
    assert "daytona-sdk" in said
    assert 'pip install "sandboxkit[daytona]"' in said


def test_credentials_are_told_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "JWT_TOKEN", "ORGANIZATION_ID"):
        monkeypatch.delenv(f"DAYTONA_{name}", raising=False)
    none = DaytonaProvider().credentials()
    assert not none.found
    assert "DAYTONA_API_KEY" in none.said
    monkeypatch.setenv("DAYTONA_JWT_TOKEN", "secret-token")
    assert not DaytonaProvider().credentials().found
    monkeypatch.setenv("DAYTONA_ORGANIZATION_ID", "org")
    assert DaytonaProvider().credentials().found
    by_key = DaytonaProvider(api_key="secret-key")
    assert by_key.credentials().found
    assert "secret" not in repr((by_key, by_key.credentials(), by_key.account()))
    assert by_key.account() != DaytonaProvider(api_key="another").account()


async def test_no_credentials_and_wrong_ones(
    daytona: DaytonaEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = DaytonaProvider(api_key="dtn_wrong")
    with pytest.raises(AuthenticationError) as caught:
        await Sandbox.create(wrong)
    assert "dtn_wrong" not in str(caught.value)
    await wrong.aclose()
    monkeypatch.delenv("DAYTONA_API_KEY")
    with pytest.raises(AuthenticationError, match="DAYTONA_API_KEY"):
        await Sandbox.create(DaytonaProvider())
    assert daytona.sandboxes() == set()


async def test_nobody_answers() -> None:
    provider = DaytonaProvider(api_url="http://127.0.0.1:9/api", api_key="k", target="us")
    with pytest.raises(ProviderUnavailableError, match=r"127\.0\.0\.1:9"):
        await Sandbox.create(provider)
    await provider.aclose()


async def test_no_file_of_the_directory_has_a_say(
    provider: DaytonaProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = ("DAYTONA_TARGET=nowhere", "DAYTONA_API_KEY=wrong", "DAYTONA_JWT_TOKEN=wrong")
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAYTONA_TARGET")
    without = DaytonaProvider()
    async with Sandbox.create(without, artifacts=(artifact(tmp_path, "hermetic"),)) as sandbox:
        assert (await sandbox.exec(["/opt/kit/tool"])).text == "brought along\n"
        assert (await sandbox.sh("command -v git && command -v rg && id -un")).text.endswith(
            "daytona\n"
        )
    await without.aclose()


def test_one_provider_serves_one_loop_after_the_other(daytona: DaytonaEmulator) -> None:
    daytona.faults.clear()
    provider = DaytonaProvider()

    async def use() -> str:
        async with Sandbox.create(provider) as sandbox:
            text = (await sandbox.exec(["id", "-un"])).text
        await provider.aclose()
        return text

    assert [asyncio.run(use()) for _ in range(2)] == ["daytona\n"] * 2
    assert daytona.sandboxes() == set()


# one sandbox


async def test_nothing_of_a_sandbox_outlives_its_host(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    async with Sandbox.create(provider, lease_s=30) as sandbox:
        said = await asked(daytona, f"/api/sandbox/{sandbox.id}")
        assert said["name"] == sandbox.info.labels[KEY_LABEL]
        assert said["autoStopInterval"] == 0
        assert said["autoDeleteInterval"] == 0
        assert said["autoDestroyAt"]
        assert said["env"] == {}


async def test_what_differs_is_what_the_service_says(provider: DaytonaProvider) -> None:
    async with Sandbox.create(provider) as sandbox:
        info = sandbox.info
        assert (info.effective.cpu, info.effective.memory_gib, info.effective.disk_gib) == (1, 1, 3)
        assert info.effective.user == "daytona"
        assert sandbox.workdir == info.effective.workdir == "/home/daytona/work"
        told = {each.field: (each.wanted, each.applied) for each in info.differences}
        assert told["resources.disk_gib"] == (5, 3)
        assert told["workdir"] == ("/work", "/home/daytona/work")
        assert "resources.cpu" not in told


async def test_a_new_sandbox_is_found_by_its_key_at_once(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    daytona.settings.list_lag_s = 3600.0
    try:
        async with Sandbox.create(provider) as sandbox:
            key = {KEY_LABEL: sandbox.info.labels[KEY_LABEL]}
            assert [info.id async for info in provider.list(key)] == [sandbox.id]
            assert [info.id async for info in provider.list({**key, "no": "such"})] == []
    finally:
        daytona.settings.list_lag_s = 0.0


async def test_a_stopped_sandbox_is_none(provider: DaytonaProvider) -> None:
    from daytona import AsyncDaytona

    sandbox = await Sandbox.create(provider)
    async with AsyncDaytona() as sdk:
        await (await sdk.get(sandbox.id)).stop(timeout=60)
    with pytest.raises(SandboxNotFoundError):
        await provider.attach(sandbox.id)
    await sandbox.destroy()


async def test_what_is_not_ours_is_none(provider: DaytonaProvider) -> None:
    from daytona import AsyncDaytona

    async with AsyncDaytona() as sdk:
        foreign = await sdk.create()
        try:
            with pytest.raises(SandboxNotFoundError, match="not made by sandboxkit"):
                await provider.attach(foreign.id)
            assert foreign.id not in {info.id async for info in provider.list({})}
        finally:
            await foreign.delete(wait=True)


async def test_the_user_is_the_one_asked_for(provider: DaytonaProvider) -> None:
    async with Sandbox.create(provider, user="root") as sandbox:
        assert (await sandbox.exec(["id", "-un"])).text == "root\n"
        assert sandbox.info.effective.workdir == "/work"


async def test_a_session_leaves_no_log_behind(
    provider: DaytonaProvider, daytona: DaytonaEmulator
) -> None:
    async with Sandbox.create(provider) as sandbox:
        mine = await provider.attach(sandbox.id)
        channel = await mine.spawn(Command(("cat",), env={"TOKEN": "very-secret"}))
        path = f"/toolbox/{sandbox.id}/process/session"
        sessions = await asked(daytona, path)
        assert len(sessions) == 2
        assert "very-secret" not in json.dumps(sessions)
        await channel.send(b"hello\n")
        output = await channel.receive()
        assert output is not None
        assert output.data == b"hello\n"
        await channel.aclose()
        with anyio.fail_after(20):
            while len(await asked(daytona, path)) > 1:
                await anyio.sleep(0.05)


async def test_a_long_connection_is_replaced_before_its_log_fills_the_disk(
    provider: DaytonaProvider, daytona: DaytonaEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "GUEST_LOG", 300_000)
    async with Sandbox.create(provider) as sandbox:
        before = daytona.faults.calls["session"]
        result = await sandbox.sh("seq 1 200000; exit 3")
        assert result.exit_code == 3
        assert result.text.split() == [str(number) for number in range(1, 200_001)]
        assert daytona.faults.calls["session"] - before >= 3


async def test_only_lines_of_text_are_sent(provider: DaytonaProvider) -> None:
    async with Sandbox.create(provider) as sandbox:
        channel = await (await provider.attach(sandbox.id)).spawn(Command(("cat",)))
        try:
            for data in (b"no newline", b"\xff\n", b"a\0b\n"):
                with pytest.raises(UnsupportedError, match="lines of text"):
                    await channel.send(data)
            line = "é".encode() * 100_000 + b"\n"  # longer than the program's pipe
            await channel.send(line)
            await channel.send_eof()
            seen = b""
            while (output := await channel.receive()) is not None:
                seen += output.data
            assert seen == line
            assert await channel.wait() == 0
        finally:
            await channel.aclose()


# sizes and images


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"cpu": 0.5, "image": IMAGE}, "whole numbers"),
        ({"memory_gib": 1.5, "image": IMAGE}, "whole numbers"),
        ({"disk_gib": 11, "image": IMAGE}, "from 1 to 10"),
        ({"cpu": 2}, "only with an image"),
        ({"disk_gib": 5}, "only with an image"),
        ({"cpu": 4, "image": "snapshot:daytona-medium"}, "the snapshot has 2"),
    ],
)
async def test_a_size_that_cannot_be_had_is_refused(
    provider: DaytonaProvider, daytona: DaytonaEmulator, wanted: dict[str, Any], names: str
) -> None:
    with pytest.raises(UnsupportedError, match=names):
        await Sandbox.create(provider, **wanted)
    assert daytona.faults.calls["create"] == 0
    assert daytona.faults.calls["build"] == 0


async def test_an_image_is_built_once_with_its_size(
    provider: DaytonaProvider, daytona: DaytonaEmulator, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    wanted: dict[str, Any] = {"image": IMAGE, "cpu": 2, "disk_gib": 4}
    wanted["artifacts"] = (artifact(tmp_path, "once"),)
    async with Sandbox.create(provider, on_progress=steps.append, **wanted) as sandbox:
        assert (await sandbox.exec(["/opt/kit/tool"])).text == "brought along\n"
        effective = sandbox.info.effective
        assert (effective.cpu, effective.memory_gib, effective.disk_gib) == (2, 1, 4)
        assert effective.image == IMAGE
    assert any(IMAGE in step.step and step.finished for step in steps)
    async with Sandbox.create(provider, **wanted):
        pass
    assert daytona.faults.calls["build"] == 1


async def test_the_snapshots_of_the_account_are_images(provider: DaytonaProvider) -> None:
    async with Sandbox.create(provider, image="snapshot:daytona-medium", cpu=2) as sandbox:
        assert sandbox.info.effective.memory_gib == 4
        assert "resources.memory_gib" in {each.field for each in sandbox.info.differences}


@pytest.mark.parametrize("image", ["no-such-image:1", "debian", "snapshot:no-such-snapshot"])
async def test_an_image_that_cannot_be_had_is_named(
    provider: DaytonaProvider, daytona: DaytonaEmulator, image: str
) -> None:
    before = daytona.snapshots()
    with pytest.raises(ImageError, match=image.removeprefix("snapshot:")):
        await Sandbox.create(provider, image=image)
    assert daytona.snapshots() == before


async def test_a_snapshot_tells_which_files_are_in_it(
    provider: DaytonaProvider, tmp_path: Path
) -> None:
    files = (artifact(tmp_path, "kept"),)
    async with Sandbox.create(provider, artifacts=files) as sandbox:
        kept = await sandbox.snapshot("with-tool")
    try:
        async with Sandbox.create(provider, image=kept, artifacts=files) as again:
            assert (await again.exec(["/opt/kit/tool"])).text == "brought along\n"
        with pytest.raises(UnsupportedError, match="artifacts"):
            await Sandbox.create(provider, image=kept, artifacts=(artifact(tmp_path, "other"),))
    finally:
        await provider.remove_snapshot(kept)
    with pytest.raises(UnsupportedError):
        await provider.remove_snapshot("snapshot:daytona-small")


@pytest.mark.parametrize(("says_no", "reason"), [(True, "tier"), (False, "without it")])
async def test_a_network_that_the_account_may_not_choose_is_refused(
    provider: DaytonaProvider, daytona: DaytonaEmulator, says_no: bool, reason: str
) -> None:
    daytona.settings.tier, daytona.settings.says_no = 1, says_no
    try:
        with pytest.raises(UnsupportedError, match=reason):
            await Sandbox.create(provider, network="none")
        assert daytona.sandboxes() == set()
        async with Sandbox.create(provider, network="open"):
            pass
    finally:
        daytona.settings.reset()
