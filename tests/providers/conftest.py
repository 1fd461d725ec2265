"""What the tests of the Docker provider share."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import docker
import pytest

from sandboxkit.providers.base import ByteChannel, Command, SandboxHandle
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.providers.docker.handle import DockerHandle
from sandboxkit.spec import CREATED_LABEL, KEY_LABEL, OWNER_LABEL, SandboxSpec

MakeSpec = Callable[..., SandboxSpec]


@pytest.fixture
async def provider(engine: str) -> AsyncIterator[DockerProvider]:
    provider = DockerProvider(host=engine)
    yield provider
    await provider.aclose()


@pytest.fixture
def api(engine: str) -> Iterator[Any]:
    """docker-py, to look at the engine past the provider."""
    client = docker.APIClient(base_url=engine)
    yield client
    client.close()


@pytest.fixture
def make_spec() -> MakeSpec:
    """A spec with the labels that sandboxkit itself adds."""
    owner = f"test-{secrets.token_hex(4)}"

    def make(**fields: Any) -> SandboxSpec:
        spec = SandboxSpec.build(**fields)
        ours = {
            OWNER_LABEL: owner,
            KEY_LABEL: f"sandboxkit-{secrets.token_hex(8)}",
            CREATED_LABEL: "2026-01-01T00:00:00+00:00",
        }
        return spec.model_copy(update={"labels": {**spec.labels, **ours}})

    return make


@pytest.fixture
async def sandbox(provider: DockerProvider, make_spec: MakeSpec) -> AsyncIterator[DockerHandle]:
    """A sandbox with every default."""
    handle = await provider.create(make_spec())
    yield handle
    await handle.destroy()


async def output_of(channel: ByteChannel) -> tuple[bytes, bytes]:
    """All of stdout and stderr."""
    pieces: dict[int, list[bytes]] = {1: [], 2: []}
    while (output := await channel.receive()) is not None:
        pieces[output.fd].append(output.data)
    return b"".join(pieces[1]), b"".join(pieces[2])


async def run(handle: SandboxHandle, *argv: str, user: str | None = None) -> str:
    """The stdout of a program that must succeed."""
    channel = await handle.spawn(Command(argv=argv, user=user))
    try:
        await channel.send_eof()
        stdout, stderr = await output_of(channel)
        code = await channel.wait()
    finally:
        await channel.aclose()
    assert code == 0, (code, stdout, stderr)
    return stdout.decode()


async def until_gone(provider: DockerProvider, spec: SandboxSpec) -> None:
    """Wait until the engine has removed the spec's container; it tells nobody."""
    with anyio.fail_after(30):
        while await found(provider, spec):
            await anyio.sleep(0.02)


async def found(provider: DockerProvider, spec: SandboxSpec) -> list[str]:
    """The ids of the sandboxes that were made by this spec."""
    return [info.id async for info in provider.list({KEY_LABEL: spec.key})]
