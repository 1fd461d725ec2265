"""A connection to the engine that a cancelled call had just opened is closed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandboxkit.providers.base import Command
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.providers.docker.endpoint import Endpoint
from sandboxkit.providers.docker.engine import Engine
from sandboxkit.providers.docker.handle import DockerHandle
from sandboxkit.providers.docker.hijack import hijack
from sandboxkit.providers.docker.stream import HijackedChannel, Outcome
from tests.cancelling import Work, cancel_at_every_await, nothing_lost
from tests.leaks import child_processes, left_behind

_TAKEN_OVER = b"HTTP/1.1 101 UPGRADED\r\n\r\n"
# It does what the far side of it does, and does not end with its input.
_SSH = f"""#!{sys.executable}
import os, time
os.read(0, 65536)
os.write(1, {_TAKEN_OVER!r})
time.sleep(600)
"""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readuntil(b"{}")
        writer.write(_TAKEN_OVER)
        await writer.drain()
        await reader.read()
    writer.close()


@pytest.fixture(params=["unix", "tcp", "tcp-by-name", "ssh"])
async def endpoint(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Endpoint]:
    """What takes over any connection, by each road."""
    path = tmp_path / "engine.sock"
    if request.param == "ssh":  # a program in its place
        ssh = tmp_path / "ssh"
        ssh.write_text(_SSH)
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr("sandboxkit.providers.docker.connection._GRACE_S", 0.1)
        yield Endpoint("ssh://someone@engine.example", "the test")
        return
    if request.param == "unix":
        server = await asyncio.start_unix_server(answer, path)
        host = f"unix://{path}"
    else:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        name = "127.0.0.1" if request.param == "tcp" else "localhost"
        host = f"tcp://{name}:{server.sockets[0].getsockname()[1]}"
    yield Endpoint(host, "the test")
    server.close()


async def ended() -> Outcome:
    return Outcome("ended", 0)


async def open_channel(endpoint: Endpoint) -> HijackedChannel:
    stream, first = await hijack(endpoint, "/exec/x/start", {}, deadline_s=10)
    return HijackedChannel(stream, first, ended, "x")


async def test_whenever_a_take_over_is_cancelled(endpoint: Endpoint) -> None:
    async def opened_and_closed() -> None:
        channel = await open_channel(endpoint)
        await asyncio.shield(channel.aclose())  # whose it is now: it closes it in any case

    async def begin() -> Work:
        return opened_and_closed()

    before = frozenset(child_processes())
    async with nothing_lost():
        assert await cancel_at_every_await(begin) > 4
    assert not left_behind(child_processes, before)


async def test_whenever_its_close_is_cancelled(endpoint: Endpoint) -> None:
    async def begin() -> Work:
        return (await open_channel(endpoint)).aclose()

    before = frozenset(child_processes())
    async with nothing_lost():
        assert await cancel_at_every_await(begin) > 1
    assert not left_behind(child_processes, before)


async def test_whenever_a_spawn_is_cancelled(engine: str, sandbox: DockerHandle) -> None:
    async with nothing_lost():
        provider = DockerProvider(host=engine)
        handle = await provider.attach(sandbox.info.id)

        async def opened_and_closed() -> None:
            channel = await handle.spawn(Command(argv=("cat",)))
            await asyncio.shield(channel.aclose())

        async def begin() -> Work:
            return opened_and_closed()

        assert await cancel_at_every_await(begin) > 8
        await provider.aclose()


async def test_whenever_the_close_of_the_pool_is_cancelled(engine: str) -> None:
    async def begin() -> Work:
        api = Engine(engine)
        await api.info()
        return api.aclose()

    async with nothing_lost():
        assert await cancel_at_every_await(begin) > 1
