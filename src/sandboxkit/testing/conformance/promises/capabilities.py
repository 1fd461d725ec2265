"""What a provider claims is true; what it does not claim is refused, and nothing is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from sandboxkit.errors import ImageError, SandboxError, UnsupportedError
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import Artifact, Resources
from sandboxkit.testing.conformance.fixtures import Making
from sandboxkit.testing.conformance.inside import answer, program
from sandboxkit.testing.conformance.promise import note_refusal, promise

_LIMITS: dict[str, float] = {"cpu": 0.5, "memory_gib": 0.25, "disk_gib": 1.0, "pids": 100}


async def _refused(create: Making, field: str, **fields: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        await create(**fields)
    note_refusal(caught.value)
    assert field in str(caught.value), "the error does not name the field"
    assert caught.value.provider == create.wired.name
    assert await create.alive() == [], "something was created all the same"


@promise
async def test_capabilities_need_no_backend(create: Making) -> None:
    """They are known, and the same, without any connection; each word is a known one."""
    can = type(create.wired.inner).capabilities(create.wired.inner)
    assert can == create.wired.capabilities()
    assert can.limits <= set(Resources.model_fields)
    assert can.network <= {"none", "allow", "open"}
    assert can.network


@promise
@pytest.mark.parametrize("limit", _LIMITS)
async def test_a_limit_is_applied_exactly_or_refused(create: Making, limit: str) -> None:
    """A limit that the caller wrote is in effect; or it is `UnsupportedError`."""
    fields = {limit: _LIMITS[limit]}
    if limit in create.wired.capabilities().limits:
        sandbox = await create(**fields)
        assert getattr(sandbox.info.effective, limit) == _LIMITS[limit]
        assert f"resources.{limit}" not in {each.field for each in sandbox.info.differences}
        return
    await _refused(create, limit, **fields)
    sandbox = await create(**fields, strict=False)
    assert f"resources.{limit}" in {each.field for each in sandbox.info.differences}
    assert getattr(sandbox.info.effective, limit) != _LIMITS[limit]


@promise
@pytest.mark.parametrize("limit", _LIMITS)
async def test_a_default_limit_is_applied_or_reported(sandbox: Sandbox, limit: str) -> None:
    """A default that is not in effect is named among the differences."""
    wanted = getattr(Resources(), limit)
    differs = f"resources.{limit}" in {each.field for each in sandbox.info.differences}
    assert differs or getattr(sandbox.info.effective, limit) == wanted


@promise
async def test_no_network_reaches_nothing_or_is_refused(create: Making) -> None:
    """With the network `none`, no address outside can be reached, by any protocol."""
    if "none" not in create.wired.capabilities().network:
        await _refused(create, "network", network="none")
        return
    sandbox = await create(network="none")
    assert sandbox.info.effective.network == "none"
    script = """
        import json, socket
        reached = []
        for family, address in (
            (socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "169.254.169.254"),
            (socket.AF_INET, "172.17.0.1"), (socket.AF_INET6, "2001:db8::1"),
        ):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                try:
                    with socket.socket(family, kind) as outside:
                        outside.settimeout(5)
                        outside.connect((address, 53))
                        reached.append(address)
                except OSError as error:
                    if isinstance(error, TimeoutError) or "refused" in str(error):
                        reached.append(f"{address}: {error}")
        try:
            reached.append(socket.getaddrinfo("example.com", 80)[0][4][0])
        except OSError:
            pass
        print(json.dumps(reached))
    """
    assert await answer(sandbox, script) == []


@promise
async def test_an_open_network_is_open_or_refused(create: Making) -> None:
    """With the network `open`, there is an interface beside loopback."""
    if "open" not in create.wired.capabilities().network:
        await _refused(create, "network", network="open")
        return
    sandbox = await create(network="open")
    assert sandbox.info.effective.network == "open"
    # Not from /sys, which not every sandbox has.
    names = await answer(sandbox, "import json, socket; print(json.dumps(socket.if_nameindex()))")
    assert {name for _number, name in names} - {"lo"}


@promise
async def test_an_unknown_runtime_is_refused(create: Making) -> None:
    """A runtime that there is not is `UnsupportedError` that names it."""
    with pytest.raises(UnsupportedError, match="no-such-runtime"):
        await create(runtime="no-such-runtime")
    assert await create.alive() == []


@promise
async def test_an_unknown_image_is_refused(create: Making) -> None:
    """An image that cannot be had is `ImageError`; where none can be chosen, it is refused."""
    image = "localhost:1/sandboxkit/no-such-image:0"
    if not create.wired.capabilities().images:
        await _refused(create, "image", image=image)
        return
    with pytest.raises(ImageError, match="no-such-image"):
        await create(image=image)
    assert await create.alive() == []


@promise
async def test_public_ports_are_refused_where_there_are_none(create: Making) -> None:
    """A port to expose is `UnsupportedError` on a backend that exposes none."""
    if not create.wired.capabilities().expose:
        await _refused(create, "ports", ports=(8000,))


@promise
async def test_an_artifact_is_there_and_runs(create: Making, tmp_path: Path) -> None:
    """A file that the spec brings is at its place; read-only where the backend mounts it."""
    source = anyio.Path(tmp_path / "tool")
    await source.write_text("#!/bin/sh\necho brought along\n")
    await source.chmod(0o755)  # it keeps its mode where it is mounted or uploaded as it is
    target = "/tmp/sandboxkit-conformance/tool"  # noqa: S108 - in the sandbox
    artifact = Artifact(
        name="conformance-kit",
        version="1",
        platform="linux-x86_64",
        source=tmp_path / "tool",
        target=target,
    )
    sandbox = await create(artifacts=(artifact,))
    assert (await sandbox.exec([target])).text == "brought along\n"
    if create.wired.capabilities().artifacts:
        with pytest.raises(SandboxError):
            await sandbox.files.write(target, "changed")


@promise
async def test_memory_is_bounded_and_its_end_is_told(create: Making) -> None:
    """What takes too much is killed and reported as such, and the sandbox goes on."""
    if "memory_gib" not in create.wired.capabilities().limits:
        await _refused(create, "memory_gib", memory_gib=0.25)
        return
    sandbox = await create(memory_gib=0.25)
    hog = program("x = bytearray(1 << 30); x[::4096] = b'x' * len(x[::4096])")
    result = await sandbox.exec(hog)
    assert (result.exit_code, result.oom_killed) == (-9, True)
    hidden = await sandbox.exec(["sh", "-c", '"$@"; exit 0', "sh", *hog])
    assert (hidden.exit_code, hidden.oom_killed) == (0, True)
    plain = await sandbox.sh("kill -9 $$")
    assert (plain.exit_code, plain.oom_killed) == (-9, False)


@promise
async def test_processes_are_bounded_and_a_fork_bomb_is_survived(create: Making) -> None:
    """No more processes than the limit; a bomb ends by its time-out, and the sandbox goes on."""
    if "pids" not in create.wired.capabilities().limits:
        await _refused(create, "pids", pids=64)
        return
    sandbox = await create(pids=64)
    count = """
        import json, os, signal
        children = []
        try:
            while len(children) < 1000:
                child = os.fork()
                if child == 0:
                    signal.pause()
                children.append(child)
        except OSError:
            pass
        print(json.dumps(len(children)))
        for child in children:
            os.kill(child, signal.SIGKILL)
    """
    assert 10 < await answer(sandbox, count) < 64
    bomb = """
        import os, signal
        if os.fork():
            signal.pause()
        while True:
            try:
                os.fork()
            except OSError:
                continue
    """
    assert (await sandbox.exec(program(bomb), timeout_s=1.5)).timed_out
    assert (await sandbox.exec(["true"])).exit_code == 0


@promise
async def test_processor_time_is_bounded(create: Making) -> None:
    """Two busy processes get no more processor time than the share asked for."""
    if "cpu" not in create.wired.capabilities().limits:
        await _refused(create, "cpu", cpu=0.25)
        return
    sandbox = await create(cpu=0.25)
    script = """
        import json, os, time
        end = time.monotonic() + 2
        child = os.fork()
        while time.monotonic() < end:
            pass
        if child == 0:
            os._exit(0)
        os.wait()
        print(json.dumps(sum(os.times()[:4]) / 2))
    """
    assert await answer(sandbox, script) < 0.5


@promise
async def test_disk_is_bounded(create: Making) -> None:
    """More than the limit cannot be written, and the error says so."""
    if "disk_gib" not in create.wired.capabilities().limits:
        await _refused(create, "disk_gib", disk_gib=1)
        return
    sandbox = await create(disk_gib=1)
    result = await sandbox.sh("head -c 3G /dev/zero > big")
    assert result.exit_code != 0
    assert (await sandbox.files.stat("big")).size <= 1 << 30
    assert (await sandbox.sh("rm big; echo room again > small")).exit_code == 0
