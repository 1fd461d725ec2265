"""Finding the engine, reaching it by every road, and losing it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from sandboxkit.errors import ConnectionLostError, InvalidSpecError, ProviderUnavailableError
from sandboxkit.guest import CONNECT, bundle
from sandboxkit.providers.base import Command
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.providers.docker.connection import connect
from sandboxkit.providers.docker.endpoint import Endpoint, resolve
from tests.providers.conftest import MakeSpec, output_of, until_gone
from tests.providers.proxy import proxy

SIZE = 3 * 1024 * 1024 + 17


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration of the docker command."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def docker_context(config: Path, name: str, host: str) -> None:
    """What `docker context create` writes."""
    meta = config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    content = {"Name": name, "Metadata": {}, "Endpoints": endpoints}
    (meta / "meta.json").write_text(json.dumps(content))


def certificate(directory: Path) -> ssl.SSLContext:
    """A certificate for the loopback address, that is also its own authority and the client's."""
    argv = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    argv += " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    argv += " -addext keyUsage=critical,digitalSignature,keyCertSign"
    cert, key = directory / "cert.pem", directory / "key.pem"
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*argv.split(), *files], check=True, capture_output=True)
    (directory / "ca.pem").write_bytes(cert.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(cert, key)
    return context


async def works(provider: DockerProvider, make_spec: MakeSpec) -> None:
    """A sandbox comes, echoes bytes after the end of its stdin, and goes."""
    spec = make_spec()
    handle = await provider.create(spec)
    try:
        channel = await handle.spawn(Command(argv=("sh", "-c", "cat; exit 3")))
        data = bytes(range(256)) * (SIZE // 256) + b"end"

        async def feed() -> None:
            await channel.send(data)
            await channel.send_eof()

        _, (stdout, stderr) = await asyncio.gather(feed(), output_of(channel))
        assert (stdout == data, stderr) == (True, b"")
        assert await channel.wait() == 3
        await channel.aclose()

        script = "head -c 1000000 /dev/zero; cat"
        channel = await handle.spawn(Command(argv=("sh", "-c", script)))
        first = await channel.receive()
        assert first is not None
        await channel.send_eof()  # while more of the output waits
        rest, _ = await output_of(channel)
        assert len(first.data + rest) == 1_000_000
        await channel.aclose()
    finally:
        await handle.destroy()
        await provider.aclose()
    await until_gone(provider, spec)
    await provider.aclose()


async def test_the_road_over_tcp(engine: str, make_spec: MakeSpec) -> None:
    with proxy(engine) as way:
        await works(DockerProvider(host=f"tcp://127.0.0.1:{way.port}"), make_spec)


async def test_the_road_over_tls_by_the_environment(
    engine: str, make_spec: MakeSpec, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(engine, certificate(config)) as way:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{way.port}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(config))
        await works(DockerProvider(), make_spec)


async def test_a_wrong_certificate_is_refused(
    engine: str, make_spec: MakeSpec, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("server", "client"):
        (config / name).mkdir()
    server = certificate(config / "server")
    certificate(config / "client")
    with proxy(engine, server) as way:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{way.port}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(config / "client"))
        with pytest.raises(ProviderUnavailableError, match="certificate"):
            await DockerProvider().create(make_spec())


async def test_the_road_over_ssh(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In place of ssh, a program that does what the far side of it does.
    program = tmp_path / "ssh"
    program.write_text(f"""#!{sys.executable}
import os, socket, sys, threading
assert sys.argv[-3:] == ["docker", "system", "dial-stdio"], sys.argv
assert sys.argv[sys.argv.index("-l") + 1] == "someone", sys.argv
assert "engine.example" in sys.argv, sys.argv
engine = socket.socket(socket.AF_UNIX)
engine.connect({engine.removeprefix("unix://")!r})
def inwards():
    while data := os.read(0, 65536):
        engine.sendall(data)
    engine.shutdown(socket.SHUT_WR)
threading.Thread(target=inwards, daemon=True).start()
while data := engine.recv(65536):
    while data:
        data = data[os.write(1, data):]
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    stream = await connect(Endpoint("ssh://someone@engine.example", "the test"))
    try:
        await stream.send(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        await stream.send_eof()
        answer = b""
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                answer += await stream.receive()
        assert answer.startswith(b"HTTP/1.0 200 OK")
        assert answer.endswith(b"OK")
    finally:
        await stream.aclose()


def test_what_ssh_needs_is_named() -> None:
    script = """
import asyncio, sys
sys.modules["paramiko"] = None
from sandboxkit.errors import ProviderNotInstalledError
from sandboxkit.providers.docker import DockerProvider
try:
    asyncio.run(DockerProvider(host="ssh://engine.example").attach("x"))
except ProviderNotInstalledError as error:
    assert "docker[ssh]" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True)


async def test_the_road_by_a_context(engine: str, make_spec: MakeSpec, config: Path) -> None:
    docker_context(config, "elsewhere", engine)
    await works(DockerProvider(context="elsewhere"), make_spec)


def test_who_names_the_engine(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker_context(config, "one", "tcp://one.example:2375")
    docker_context(config, "two", "ssh://two.example")
    assert resolve().host == "unix:///var/run/docker.sock"
    (config / "config.json").write_text('{"currentContext": "one"}')
    assert resolve().host == "tcp://one.example:2375"
    monkeypatch.setenv("DOCKER_CONTEXT", "two")
    assert resolve().host == "ssh://two.example"
    monkeypatch.setenv("DOCKER_HOST", "unix:///three.sock")
    assert resolve().host == "unix:///three.sock"
    assert resolve(context="one").host == "tcp://one.example:2375"
    assert resolve("tcp://four.example:1").host == "tcp://four.example:1"


def test_an_engine_that_cannot_be_meant(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSpecError, match="no Docker context nowhere"):
        resolve(context="nowhere")
    with pytest.raises(InvalidSpecError, match="must start with unix://"):
        resolve("ftp://engine.example")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(config / "none"))
    with pytest.raises(InvalidSpecError, match="DOCKER_CERT_PATH"):
        resolve("tcp://127.0.0.1:1")


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"])
async def test_a_missing_engine_says_what_to_do(
    make_spec: MakeSpec, config: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    provider = DockerProvider()
    with pytest.raises(ProviderUnavailableError) as raised:
        await provider.create(make_spec())
    assert host in raised.value.message
    assert "DOCKER_HOST" in raised.value.message
    assert "Start it" in raised.value.message
    with pytest.raises(ProviderUnavailableError):
        await provider.attach("0123456789ab")


async def test_an_engine_that_stops_in_the_middle(
    engine: str, provider: DockerProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    with proxy(engine) as way:
        remote = DockerProvider(host=f"tcp://127.0.0.1:{way.port}")
        handle = await remote.create(spec)
        main = await handle.spawn(Command(argv=CONNECT, user="0"))
        await main.send(await asyncio.to_thread(bundle, text=False))
        assert await main.receive() is not None  # the guest runs: it outlives its host
        channel = await handle.spawn(Command(argv=("sh", "-c", "echo first; cat")))
        output = await channel.receive()
        assert output is not None
        assert output.data == b"first\n"
    for stream in (channel, main):
        with pytest.raises(ConnectionLostError, match="lost"):
            await stream.receive()
    assert await channel.wait() is None
    with pytest.raises(ProviderUnavailableError):
        await handle.spawn(Command(argv=("true",)))
    with pytest.raises(ProviderUnavailableError):
        await handle.destroy()
    await channel.aclose()
    await main.aclose()
    await remote.aclose()
    again = await provider.attach(handle.info.id)  # the sandbox itself is well
    await again.destroy()


def test_docker_py_is_not_needed_to_know_the_provider() -> None:
    script = """
import sys
sys.modules["docker"] = None
from sandboxkit.providers.docker import DockerProvider
assert "[docker]" in DockerProvider.install_hint
assert DockerProvider().capabilities().isolation == "container"
import asyncio
import contextlib
from sandboxkit.errors import ProviderNotInstalledError
try:
    asyncio.run(DockerProvider().attach("x"))
except ProviderNotInstalledError as error:
    assert 'pip install "sandboxkit[docker]"' in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True)
