"""Artifacts: one read-only volume per version, filled once, whoever asks and whatever fails."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self

import docker.types
import pytest

from sandboxkit.errors import InvalidSpecError, UnsupportedError
from sandboxkit.progress import Progress, listening
from sandboxkit.providers.docker import DockerProvider, artifacts
from sandboxkit.providers.docker.artifacts import CONTENT_LABEL, FILL_LABEL, volume_name
from sandboxkit.providers.docker.upload import CACHE_LABEL
from sandboxkit.spec import Artifact, SandboxSpec
from tests.providers.conftest import MakeSpec, found, run

YEAR_S = 365 * 86_400.0
SIZE = 24 * 1024 * 1024 + 11


@pytest.fixture
def artifact(tmp_path: Path, api: Any) -> Iterator[Artifact]:
    source = tmp_path / "program"
    source.write_bytes(hashlib.sha256(str(tmp_path).encode()).digest() * (SIZE // 32))
    version = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    yield Artifact(
        name="test-artifact",
        version=version,
        platform=f"linux-{api.info()['Architecture']}",
        source=source,
        target="/opt/test/bin/program",
    )
    for container in containers(api, version):
        api.remove_container(container["Id"], force=True)
    for volume in volumes(api, version):
        api.remove_volume(volume)


def volumes(api: Any, version: str) -> list[str]:
    listed: list[dict[str, str]] | None = api.volumes(filters={"name": version})["Volumes"]
    return sorted(volume["Name"] for volume in listed or ())


def containers(api: Any, version: str) -> list[Any]:
    return list(api.containers(all=True, filters={"name": version}))


async def in_use(provider: DockerProvider, make_spec: MakeSpec, artifact: Artifact) -> str:
    """The digest of the artifact as a sandbox sees it."""
    handle = await provider.create(make_spec(artifacts=(artifact,)))
    try:
        return (await run(handle, "sha256sum", artifact.target)).split()[0]
    finally:
        await handle.destroy()


def digest(artifact: Artifact) -> str:
    return hashlib.sha256(artifact.source.read_bytes()).hexdigest()


async def test_it_is_whole_executable_and_read_only(
    provider: DockerProvider, make_spec: MakeSpec, artifact: Artifact
) -> None:
    steps: list[Progress] = []
    with listening(steps.append):
        handle = await provider.create(make_spec(artifacts=(artifact,)))
    try:
        assert (await run(handle, "sha256sum", artifact.target)).split()[0] == digest(artifact)
        mode = await run(handle, "stat", "-c", "%a %U", artifact.target)
        assert mode.split() == ["755", "root"]
        for user in ("0", "1000"):
            tried = await run(handle, "sh", "-c", "echo x > /opt/test/bin/y || echo no", user=user)
            assert tried == "no\n"
    finally:
        await handle.destroy()
    uploads = [step for step in steps if step.step.startswith("upload test-artifact")]
    assert uploads[-1].finished
    assert uploads[-1].done == uploads[-1].total == artifact.source.stat().st_size


async def test_it_is_filled_once_by_all_who_ask_at_once(
    engine: str, make_spec: MakeSpec, artifact: Artifact, api: Any
) -> None:
    providers = [DockerProvider(host=engine) for _ in range(3)]  # as three processes would
    digests = await asyncio.gather(*(in_use(each, make_spec, artifact) for each in providers))
    assert set(digests) == {digest(artifact)}
    assert len(volumes(api, artifact.version)) == 2  # the name, and what it points to
    assert not containers(api, artifact.version)
    steps: list[Progress] = []
    with listening(steps.append):
        await in_use(providers[0], make_spec, artifact)
    assert not [step for step in steps if "upload" in step.step]
    for each in providers:
        await each.aclose()


async def started_and_uploaded(
    part: float, provider: DockerProvider, spec: SandboxSpec
) -> asyncio.Task[Any]:
    """A task that creates, returned once it has uploaded that part of the artifact."""
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    def notice(step: Progress) -> None:
        if step.done is not None and step.total and step.done >= part * step.total:
            loop.call_soon_threadsafe(reached.set)

    with listening(notice):
        creating = asyncio.ensure_future(provider.create(spec))
        await reached.wait()
    return creating


async def test_a_fill_that_is_cut_off_leaves_nothing_and_the_next_is_whole(
    provider: DockerProvider, make_spec: MakeSpec, artifact: Artifact, api: Any
) -> None:
    await (await provider.create(make_spec())).destroy()
    for part in (0.1, 0.5, 0.9):
        spec = make_spec(artifacts=(artifact,))
        creating = await started_and_uploaded(part, provider, spec)
        creating.cancel()
        try:
            await (await creating).destroy()
        except asyncio.CancelledError:
            assert volumes(api, artifact.version) == []
        assert not containers(api, artifact.version)
        assert await found(provider, spec) == []
    assert await in_use(provider, make_spec, artifact) == digest(artifact)


async def test_a_half_filled_volume_of_a_dead_process_is_never_used(
    provider: DockerProvider, make_spec: MakeSpec, artifact: Artifact, api: Any
) -> None:
    name = volume_name(artifact)
    abandoned = api.create_volume(f"{name}-0123456789ab", labels={})["Name"]
    assert await in_use(provider, make_spec, artifact) == digest(artifact)
    assert api.inspect_volume(name)["Labels"][CONTENT_LABEL] != abandoned


@pytest.fixture(params=[-10 * YEAR_S, 10 * YEAR_S], ids=["behind", "ahead"])
def moved_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's clock is years away from the engine's."""
    real = time.time

    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time(), tz)

    monkeypatch.setattr(time, "time", lambda: real() + request.param)
    monkeypatch.setattr(artifacts, "datetime", Moved)


def begun(api: Any, artifact: Artifact) -> str:
    """The volume that a process has begun to fill, with its container."""
    purpose = volume_name(artifact)
    name = f"{purpose}-0123456789ab"
    api.create_volume(name, labels={CACHE_LABEL: "artifact", FILL_LABEL: purpose})
    mount = docker.types.Mount("/sandboxkit-artifact", name)
    config = api.create_host_config(mounts=[mount])
    image = api.images()[0]["Id"]
    api.create_container(image, ["/never-started"], name=name, host_config=config)
    return name


@pytest.mark.usefixtures("moved_clock")
async def test_what_another_process_is_just_filling_is_left_to_it(
    provider: DockerProvider, make_spec: MakeSpec, artifact: Artifact, api: Any
) -> None:
    young = begun(api, artifact)
    assert await in_use(provider, make_spec, artifact) == digest(artifact)
    assert young in volumes(api, artifact.version)
    assert len(containers(api, artifact.version)) == 1


@pytest.mark.usefixtures("moved_clock")
async def test_what_was_begun_long_ago_is_removed(
    provider: DockerProvider,
    make_spec: MakeSpec,
    artifact: Artifact,
    api: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(artifacts, "_STALE_S", 1.0)
    old = begun(api, artifact)
    made = datetime.fromisoformat(api.inspect_volume(old)["CreatedAt"])
    async with asyncio.timeout(20):
        while (datetime.fromisoformat(api.info()["SystemTime"]) - made).total_seconds() <= 1.0:
            await asyncio.sleep(0.1)
    assert await in_use(provider, make_spec, artifact) == digest(artifact)
    assert old not in volumes(api, artifact.version)
    assert len(volumes(api, artifact.version)) == 2
    assert not containers(api, artifact.version)


async def test_content_that_someone_removed_is_filled_again(
    provider: DockerProvider, make_spec: MakeSpec, artifact: Artifact, api: Any
) -> None:
    await in_use(provider, make_spec, artifact)
    api.remove_volume(api.inspect_volume(volume_name(artifact))["Labels"][CONTENT_LABEL])
    assert await in_use(provider, make_spec, artifact) == digest(artifact)


async def test_an_artifact_that_cannot_work_is_refused(
    provider: DockerProvider, make_spec: MakeSpec, artifact: Artifact, api: Any
) -> None:
    directory = artifact.source.parent
    changes: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"platform": "linux-s390x"}, UnsupportedError, "linux-s390x.*linux/"),
        ({"platform": "darwin-arm64"}, UnsupportedError, "darwin-arm64"),
        ({"source": directory}, InvalidSpecError, "is not a file"),
        ({"source": directory / "nothing"}, InvalidSpecError, "cannot be read"),
    ]
    for change, error, words in changes:
        spec = make_spec(artifacts=(artifact.model_copy(update=change),))
        with pytest.raises(error, match=words):
            await provider.create(spec)
        assert await found(provider, spec) == []
    assert volumes(api, artifact.version) == []


async def test_two_artifacts_in_one_directory_are_refused(
    provider: DockerProvider, make_spec: MakeSpec, artifact: Artifact
) -> None:
    other = artifact.model_copy(update={"name": "test-other", "target": "/opt/test/bin/other"})
    with pytest.raises(InvalidSpecError, match="/opt/test/bin"):
        await provider.create(make_spec(artifacts=(artifact, other)))
