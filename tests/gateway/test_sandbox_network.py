"""A sandbox whose only way out is the gateway: what holds for it, on a real engine."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker
import pytest

import sandboxkit as sk
from sandboxkit.errors import InvalidSpecError, UnsupportedError
from sandboxkit.gateway import Limits
from sandboxkit.lifecycle import Opening
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.testing.conformance.wires import WiredProvider
from tests.gateway.conftest import Site
from tests.gateway.world import OTHER_PUBLIC, World

pytestmark = pytest.mark.usefixtures("engine")

HTTP = ("curl", "-sS", "-m", "30")
HOSTS = ["api.example.com"]


def create(world: World, hosts: Sequence[str] = HOSTS, **fields: Any) -> Opening[sk.Sandbox]:
    return sk.Sandbox.create(
        "docker",
        network=sk.NetworkPolicy.allow(hosts),
        gateway=sk.Gateway(resolve=world.resolve, dial=world.dial),
        **fields,
    )


async def test_allowed_hosts_are_reached_and_others_are_told_why_not(site: Site) -> None:
    async with create(site.world) as sandbox:
        assert sandbox.info.effective.network == "allow"
        done = await sandbox.exec([*HTTP, "http://api.example.com/x"])
        assert done.check().text == "hello from api.example.com"
        # TLS from end to end: the host's own certificate, which the image does not know.
        done = await sandbox.exec([*HTTP, "https://api.example.com/"])
        assert (done.exit_code, site.https.seen) == (60, [])
        done = await sandbox.exec([*HTTP, "-k", "https://api.example.com/"])
        assert done.check().text == "hello from api.example.com"

        async with sandbox.network.refusals() as refusals:
            done = await sandbox.exec([*HTTP, "http://evil.example/"])
            assert "evil.example is not on the list of allowed hosts" in done.text
            assert '"allowed": ["api.example.com"]' in done.text
            done = await sandbox.exec([*HTTP, "https://evil.example/"])
            assert b"response 403" in done.stderr
            async for refusal in refusals:
                assert (refusal.host, refusal.allowed) == ("evil.example", False)
                if refusal.method == "CONNECT":
                    break
        assert [one.host for one in sandbox.network.decisions if one.allowed] == HOSTS * 3
        assert sandbox.network.traffic is not None
        assert sandbox.network.traffic.connections == 5
    assert set(site.world.asked) == {"api.example.com"}


async def test_nothing_goes_past_the_gateway(site: Site) -> None:
    """No interface but loopback: no DNS, no UDP, no ICMP, no TCP, whatever the address."""
    script = """
import socket
for host in ("api.example.com", "evil.example", "secret-data.evil.example"):
    try:
        print("resolved", socket.getaddrinfo(host, 80))
    except OSError:
        pass
for family, address in ((2, "8.8.8.8"), (2, "172.17.0.1"), (10, "2001:4860:4860::8888")):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        try:
            with socket.socket(family, kind) as made:
                made.settimeout(5)
                made.connect((address, 53))
                made.send(b"x")
                print("sent", address)
        except OSError:
            pass
"""
    async with create(site.world) as sandbox:
        done = await sandbox.exec(["python3", "-c", script], timeout_s=60)
        assert done.check().text == ""
        links = await sandbox.exec(["cat", "/proc/net/dev"])
        assert [line.split(":")[0].strip() for line in links.text.splitlines()[2:]] == ["lo"]
    assert site.world.asked == []


async def test_what_a_command_sets_itself_wins(site: Site) -> None:
    env = {"https_proxy": "http://mine.example:1", "NO_PROXY": "mine"}
    async with create(site.world, env=env) as sandbox:
        show = ["sh", "-c", 'echo "$https_proxy|$HTTPS_PROXY|$no_proxy|$NO_PROXY|$http_proxy"']
        url = sandbox.network.env["http_proxy"]
        assert (await sandbox.exec(show)).text == f"http://mine.example:1|||mine|{url}\n"
        done = await sandbox.exec(show, env={"HTTP_PROXY": "x"})
        assert done.text == "http://mine.example:1|||mine|\n"
        async with await sandbox.spawn(show) as process:
            assert (await process.stdout.read()).decode().endswith(f"|{url}\n")


async def test_the_policy_changes_while_the_sandbox_runs(site: Site) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"more\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    world = site.world
    world.names["stream.example"] = [OTHER_PUBLIC]
    ask = [*HTTP, "http://api.example.com/"]
    async with world.tcp(OTHER_PUBLIC, 80, endless), create(world, []) as sandbox:
        assert "not on the list" in (await sandbox.exec(ask)).text
        await sandbox.network.allow("api.example.com", "stream.example")
        assert (await sandbox.exec(ask)).text == "hello from api.example.com"

        async with await sandbox.spawn(["curl", "-sSN", "http://stream.example/"]) as process:
            assert await process.stdout.receive()
            await sandbox.network.set(sk.NetworkPolicy.allow(HOSTS))
            assert await process.wait() in {18, 56}  # cut: no end of the answer
        assert sandbox.network.policy == sk.NetworkPolicy.allow(HOSTS)
        assert sandbox.network.decisions[-1].reason.startswith("the policy was changed")

        await sandbox.network.set(sk.NetworkPolicy.none())
        assert "has no network" in (await sandbox.exec(ask)).text
        assert sandbox.info.effective.network == "none"
        with pytest.raises(UnsupportedError, match="'open' is the backend's own"):
            await sandbox.network.set(sk.NetworkPolicy.open())
    with pytest.raises(sk.SandboxError, match="closed"):
        await sandbox.network.allow("api.example.com")


async def test_a_sandbox_without_a_network_can_be_given_hosts(site: Site) -> None:
    gateway = sk.Gateway(resolve=site.world.resolve, dial=site.world.dial)
    async with sk.Sandbox.create("docker", gateway=gateway) as sandbox:
        assert (sandbox.network.env, sandbox.network.traffic) == ({}, None)
        assert (await sandbox.exec([*HTTP, "http://api.example.com/"])).exit_code == 6
        await sandbox.network.allow("api.example.com")
        done = await sandbox.exec([*HTTP, "http://api.example.com/"])
        assert done.text == "hello from api.example.com"


async def test_an_open_network_cannot_be_taken_away() -> None:
    async with sk.Sandbox.create("docker", network="open") as sandbox:
        for policy in (sk.NetworkPolicy.none(), sk.NetworkPolicy.allow(HOSTS)):
            with pytest.raises(UnsupportedError, match=r"NetworkPolicy\.allow"):
                await sandbox.network.set(policy)
        assert sandbox.network.policy.mode == "open"


async def test_what_the_backend_does_not_filter_is_refused() -> None:
    native = sk.NetworkPolicy.allow(HOSTS, native=True)
    with pytest.raises(UnsupportedError, match="without native=True the gateway"):
        await sk.Sandbox.create("docker", network=native)


async def test_tokens_and_proxies_are_of_one_sandbox(site: Site) -> None:
    async with create(site.world) as one, create(site.world) as other:
        url = other.network.env["http_proxy"]
        ask = [*HTTP, "-x", url, "-w", "%{http_code}", "http://api.example.com/"]
        assert (await one.exec(ask)).exit_code == 7  # nobody listens on that port here
        token = url.split("@")[0]
        port = one.network.env["http_proxy"].split("@")[1]
        ask[ask.index(url)] = f"{token}@{port}"
        assert (await one.exec(ask)).text.endswith("407")
        assert one.network.decisions[-1].allowed is False
        assert other.network.decisions == ()
    assert site.http.seen == []


def listening() -> set[int]:
    """The ports on which this process listens."""
    inodes: set[str] = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(str(fd.readlink()))
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {
        int(line[1].rpartition(":")[2], 16)
        for line in lines
        if line[3] == "0A" and f"socket:[{line[9]}]" in inodes
    }


async def test_the_proxy_ends_with_its_sandbox(site: Site) -> None:
    before = listening()
    async with create(site.world):
        assert len(listening() - before) == 1
    assert listening() == before
    async with create(site.world) as sandbox, sandbox.network.refusals() as refusals:
        engine: Any = docker.from_env()
        await asyncio.to_thread(engine.containers.get(sandbox.id).kill)
        engine.close()
        assert [one async for one in refusals] == []  # it ends
        while listening() != before:
            await asyncio.sleep(0.01)


async def test_a_flood_of_connections_is_bounded(site: Site) -> None:
    flood = """
import os, socket, sys
port = int(os.environ["http_proxy"].rpartition(":")[2])
made = []
for _ in range(1000):
    try:
        made.append(socket.create_connection(("127.0.0.1", port), 5))
        made[-1].send(b"GET http://api.example.com/ HTTP/1.1\\r\\n")
    except OSError:
        break
print(len(made), flush=True)
sys.stdin.read()
"""
    limits = Limits(connections=100)
    gateway = sk.Gateway(resolve=site.world.resolve, dial=site.world.dial, limits=limits)
    policy = sk.NetworkPolicy.allow(HOSTS)
    async with (
        sk.Sandbox.create("docker", network=policy, gateway=gateway) as hostile,
        create(site.world) as other,
        await hostile.spawn(["python3", "-c", flood], stdin=sk.PIPE) as process,
    ):
        assert int(await process.stdout.receive()) > 100
        for _ in range(5):
            done = await other.exec([*HTTP, "http://api.example.com/"])
            assert done.check().text == "hello from api.example.com"
        traffic = hostile.network.traffic
        assert traffic is not None
        assert traffic.connections <= 100 < traffic.refused
        # Itself, it can go on once it lets go.
        await process.kill()
        done = await hostile.exec([*HTTP, "--retry", "9", "http://api.example.com/"])
        assert done.check().text == "hello from api.example.com"


async def test_another_host_gives_its_own_policy(site: Site) -> None:
    gateway = sk.Gateway(resolve=site.world.resolve, dial=site.world.dial)
    ask = [*HTTP, "http://api.example.com/"]
    async with create(site.world) as sandbox:
        async with sk.Sandbox.attach("docker", sandbox.id) as again:
            (difference,) = [one for one in again.info.differences if one.field == "network"]
            assert (difference.wanted, difference.applied) == ("allow", "none")
            assert (await again.exec(ask)).exit_code == 6
        policy = sk.NetworkPolicy.allow(HOSTS)
        async with sk.Sandbox.attach(
            "docker", sandbox.id, network=policy, gateway=gateway
        ) as again:
            assert not [one for one in again.info.differences if one.field == "network"]
            assert (await again.exec(ask)).text == "hello from api.example.com"
        with pytest.raises(UnsupportedError, match="cannot be given 'open'"):
            await sk.Sandbox.attach("docker", sandbox.id, network=sk.NetworkPolicy.open())
        assert (await sandbox.exec(ask)).text == "hello from api.example.com"


@pytest.mark.parametrize(
    ("network", "env", "said"),
    [
        ("none", {}, "network='none' does not lead through the gateway"),
        ("open", {}, "network='open' does not lead through the gateway"),
        (sk.NetworkPolicy.allow(["other.example"]), {}, "api.example.com:443 for TOKEN"),
        (sk.NetworkPolicy.allow(["api.example.com:80"]), {}, "the list of allowed hosts lacks"),
        (sk.NetworkPolicy.allow(["*.api.example.com"]), {}, "api.example.com:443 for TOKEN"),
        (sk.NetworkPolicy.allow(HOSTS), {"TOKEN": "x"}, "both a secret and a variable"),
    ],
)
def test_secrets_need_a_way_to_their_hosts(network: object, env: object, said: str) -> None:
    secret = sk.Secret("TOKEN", "the-value", hosts=HOSTS)
    with pytest.raises(InvalidSpecError, match=said) as caught:
        sk.Sandbox.create("docker", network=network, env=env, secrets=[secret])
    assert "the-value" not in str(caught.value)


async def test_the_way_out_survives_cuts_and_a_pause(site: Site) -> None:
    ask = [*HTTP, "http://api.example.com/"]
    provider = WiredProvider(DockerProvider(), None)
    gateway = sk.Gateway(resolve=site.world.resolve, dial=site.world.dial)
    network = sk.NetworkPolicy.allow(HOSTS)
    async with sk.Sandbox.create(provider, network=network, gateway=gateway) as sandbox:
        for _ in range(3):
            provider.line(sandbox.id).cut()
            assert (await sandbox.exec(ask)).check().text == "hello from api.example.com"
        await sandbox.pause()
        await sandbox.resume()
        assert (await sandbox.exec(ask)).check().text == "hello from api.example.com"
    await provider.aclose()


def test_a_missing_package_is_named_before_anything_is_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = sk.Secret("TOKEN", "x", hosts=HOSTS)
    for package in ("cryptography", "h11"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf'{package}: pip install "sandboxkit\[gateway\]"'):
            sk.Sandbox.create("docker", network=sk.NetworkPolicy.allow(HOSTS), secrets=[secret])
