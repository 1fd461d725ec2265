"""Images: named, pulled with progress, refused with a reason, and sandboxkit's own."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ImageError,
    InvalidSpecError,
    SandboxError,
)
from sandboxkit.guest import CONNECT
from sandboxkit.progress import Progress, listening
from sandboxkit.providers.base import Command
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.providers.docker.base_image import recipe, tag
from sandboxkit.providers.docker.images import pull_error, read_pull
from tests.providers.conftest import MakeSpec, found, run
from tests.providers.registry import image, registry


async def test_the_default_image_has_what_agents_need(
    provider: DockerProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec())
    try:
        script = "python3 -V; git --version; curl -V; rg -V; ps -V; ls /etc/ssl/certs/*.crt"
        said = await run(handle, "sh", "-ec", script)
        assert re.search(r"Python 3\.\d+", said)
        assert (await run(handle, "id", "-un")).strip() == "agent"
        assert (await run(handle, "sh", "-c", "echo x > /work/x; echo y > ~/y; ls ~")) == "y\n"
        assert handle.info.effective.image == await tag()
        assert handle.info.effective.user == "agent"
    finally:
        await handle.destroy()


def test_the_default_images_name_is_the_digest_of_its_recipe() -> None:
    made = recipe()
    assert re.fullmatch(r"[0-9a-f]{12}", made.digest)
    changed = type(made)({**made.files, "packages": b"python3\n"})
    assert changed.digest != made.digest
    assert made.suite == "bookworm"
    assert "ripgrep" in made.packages
    assert "USER agent" in made.settings


async def test_a_users_image_is_pulled_with_progress(
    provider: DockerProvider, make_spec: MakeSpec, api: Any
) -> None:
    content = {"data": os.urandom(4 * 1024 * 1024)}
    steps: list[Progress] = []
    with registry(image(content, {"User": "worker:staff"})) as address:
        name = f"{address}/test:1"
        spec = make_spec(image=name)
        with listening(steps.append):
            handle = await provider.create(spec)
        try:
            assert handle.info.effective.image == name
            assert handle.info.effective.user == "worker"
            pulls = [step for step in steps if step.step == f"pull {name}"]
            assert pulls[-1].finished
            assert max(step.done or 0 for step in pulls) > 4 * 1024 * 1024
            assert all((step.done or 0) <= (step.total or 0) for step in pulls)
            # There is no shell in it: the guest cannot start, and whoever asks is told.
            channel = await handle.spawn(Command(argv=CONNECT, user="0"))
            while await channel.receive() is not None:
                pass
            assert await channel.wait() == 127
            await channel.aclose()
            with pytest.raises(ImageError, match="cannot run /bin/sh"):
                await handle.spawn(Command(argv=("true",)))
        finally:
            await handle.destroy()
            api.remove_image(name, force=True)
    assert await found(provider, spec) == []


@pytest.mark.parametrize(
    ("refusal", "error", "words"),
    [
        (None, ImageError, "Check its name and tag"),
        ((401, "UNAUTHORIZED"), AuthenticationError, "docker login"),
        ((429, "TOOMANYREQUESTS"), CapacityError, "limits the rate"),
    ],
)
async def test_a_refused_pull_says_what_to_do(
    provider: DockerProvider,
    make_spec: MakeSpec,
    refusal: tuple[int, str] | None,
    error: type[SandboxError],
    words: str,
) -> None:
    with registry({"/v2/": ("application/json", b"{}")}, refusal) as address:
        spec = make_spec(image=f"{address}/test:1")
        with pytest.raises(error, match=words) as raised:
            await provider.create(spec)
    assert raised.value.provider == "docker"
    assert await found(provider, spec) == []


async def test_a_registry_that_does_not_answer(
    provider: DockerProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec(image="127.0.0.1:1/test:1")
    with pytest.raises(ImageError, match=r"registry does not answer.*docker load"):
        await provider.create(spec)
    assert await found(provider, spec) == []


async def test_a_name_that_is_none(provider: DockerProvider, make_spec: MakeSpec) -> None:
    with pytest.raises((InvalidSpecError, ImageError), match="NOT A NAME"):
        await provider.create(make_spec(image="NOT A NAME"))


async def test_an_image_that_was_removed_meanwhile_is_pulled_again(
    provider: DockerProvider, make_spec: MakeSpec, api: Any
) -> None:
    with registry(image({"data": b"removed"}, {})) as address:
        name = f"{address}/test:1"
        for _ in range(2):
            handle = await provider.create(make_spec(image=name))
            await handle.destroy()
            api.remove_image(name, force=True)


def test_the_progress_of_a_pull_is_the_sum_of_its_layers() -> None:
    steps: list[tuple[int | None, int | None]] = []

    def line(layer: str, status: str, current: int, total: int) -> dict[str, Any]:
        detail = {"current": current, "total": total}
        return {"id": layer, "status": status, "progressDetail": detail}

    lines: list[dict[str, Any]] = [
        {"status": "Pulling from test", "id": "1"},
        line("a", "Downloading", 10, 100),
        line("b", "Downloading", 5, 50),
        {"id": "a", "status": "Download complete", "progressDetail": {}},
        {"id": "c", "status": "Already exists"},
    ]
    with listening(lambda step: steps.append((step.done, step.total))):
        read_pull(lines, "pull", lambda: None)
    assert steps == [(10, 100), (15, 150), (105, 150)]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("dial tcp: lookup registry.example: no such host", ImageError),
        ("pull access denied for x, repository does not exist", ImageError),
        ("manifest for x:1 not found: manifest unknown", ImageError),
        ("unauthorized: authentication required", AuthenticationError),
        ("toomanyrequests: You have reached your pull rate limit", CapacityError),
        ("write /x: no space left on device", CapacityError),
    ],
)
def test_what_registries_say(said: str, error: type[SandboxError]) -> None:
    found = pull_error("x:1", 500, said)
    assert type(found) is error
    assert said in found.message
