"""Whatever interrupts `create`, nothing is left."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from sandboxkit.errors import SandboxError
from sandboxkit.providers.base import Command
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.spec import Artifact
from tests.providers.conftest import MakeSpec, found, run


async def cancelled_after(delay_s: float, provider: DockerProvider, spec: Any) -> bool:
    creating = asyncio.ensure_future(provider.create(spec))
    await asyncio.sleep(delay_s)
    creating.cancel()
    try:
        await (await creating).destroy()
    except asyncio.CancelledError:
        return True
    return False


async def test_create_cancelled_at_any_moment_leaves_nothing(
    provider: DockerProvider, make_spec: MakeSpec
) -> None:
    await (await provider.create(make_spec())).destroy()  # the image is there from here on
    moments = random.Random(1)  # the same ones in each run
    specs = [make_spec() for _ in range(16)]
    outcomes = [await cancelled_after(moments.uniform(0, 0.25), provider, spec) for spec in specs]
    assert any(outcomes)
    assert [await found(provider, spec) for spec in specs] == [[]] * len(specs)
    handle = await provider.create(make_spec())  # and the provider still works
    assert await run(handle, "echo", "well") == "well\n"
    await handle.destroy()


async def test_a_create_that_fails_at_the_start_leaves_nothing(
    provider: DockerProvider, make_spec: MakeSpec, tmp_path: Path, api: Any
) -> None:
    # The engine creates a container with such a mount, and then cannot start it.
    file = tmp_path / "file"
    file.write_bytes(b"x")
    artifact = Artifact(
        name="test-unstartable",
        version="1",
        platform=f"linux-{api.info()['Architecture']}",
        source=file,
        target="/proc/sandboxkit/file",
    )
    spec = make_spec(artifacts=(artifact,))
    try:
        with pytest.raises(SandboxError, match="/proc"):
            await provider.create(spec)
        assert await found(provider, spec) == []
    finally:
        for volume in api.volumes(filters={"name": "sandboxkit-test-unstartable"})["Volumes"]:
            api.remove_volume(volume["Name"])


@pytest.mark.slow
async def test_a_pause_after_starts_that_were_given_up(
    provider: DockerProvider, make_spec: MakeSpec
) -> None:
    """Frozen in the middle of a start, the container would answer nothing any more."""
    moments = random.Random(7)
    handle = await provider.create(make_spec())
    for _ in range(20):
        command = Command(argv=("sleep", "60"))
        starting = [asyncio.ensure_future(handle.spawn(command)) for _ in range(3)]
        await asyncio.sleep(moments.uniform(0, 0.15))
        for each in starting:
            each.cancel()
        for started in await asyncio.gather(*starting, return_exceptions=True):
            if not isinstance(started, BaseException):
                await started.aclose()
        await handle.pause()
        await handle.resume()
    assert await run(handle, "echo", "well") == "well\n"
    await handle.destroy()
