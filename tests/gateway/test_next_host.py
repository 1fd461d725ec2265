"""Programs that outlive their host, behind a list of hosts: the next host is their way out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.channel.process import Process
from sandboxkit.gateway.way import note_of, read_way
from tests.gateway.conftest import Site
from tests.gateway.world import Certificates

pytestmark = pytest.mark.usefixtures("engine")

LEASE_S = 60.0
HOSTS = ["api.example.com"]
# It holds a connection to the proxy, and asks when that ends: when its host is gone.
PATIENT = """
import os, socket, subprocess, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["https_proxy"])
held = socket.create_connection((proxy.hostname, proxy.port))
print("ready", flush=True)
try:
    held.recv(1)
except OSError:
    pass
ask = ["curl", "-sS", "-m", "60", "-H", "Authorization: Bearer " + os.environ.get("TOKEN", "")]
for url in ("http://api.example.com/", "https://api.example.com/"):
    if url.startswith("http:") or "TOKEN" in os.environ:
        subprocess.run([*ask[: None if url.startswith("https") else 4], url])
        print(flush=True)
"""
HOST = """
import asyncio, json, sys
import sandboxkit as sk

async def main():
    secrets = [sk.Secret("TOKEN", "the-first-hosts", hosts=["api.example.com"])]
    network = sk.NetworkPolicy.allow(["api.example.com"])
    async with sk.Sandbox.create(
        "docker", network=network, lease_s=60, secrets=secrets if sys.argv[2] else ()
    ) as sandbox:
        argv = ["python3", "-c", sys.argv[1]]
        async with await sandbox.spawn(argv, detach=True) as process:
            await process.stdout.receive()
            print(json.dumps([sandbox.id, process.id]), flush=True)
            await asyncio.sleep(600)

asyncio.run(main())
"""


def fields(site: Site, certificates: Certificates, **more: Any) -> dict[str, Any]:
    gateway = sk.Gateway(
        resolve=site.world.resolve, dial=site.world.dial, trust=certificates.trust()
    )
    return {"network": sk.NetworkPolicy.allow(HOSTS), "gateway": gateway, **more}


async def patient(sandbox: sk.Sandbox) -> Process:
    process = await sandbox.spawn(["python3", "-c", PATIENT], detach=True)
    assert await process.stdout.receive() == b"ready\n"
    return process


@contextlib.asynccontextmanager
async def killed_host(*, secret: bool) -> AsyncGenerator[list[str]]:
    """A host that is killed while a program of its waits: the sandbox, and the program."""
    argv = (sys.executable, "-c", HOST, PATIENT, "yes" if secret else "")
    host = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert host.stdout is not None
    ids = json.loads(await host.stdout.readline())
    host.kill()
    await host.wait()
    try:
        yield ids
    finally:
        async with sk.Sandbox.attach("docker", ids[0]) as sandbox:
            await sandbox.destroy()


async def test_after_a_detach(site: Site, certificates: Certificates) -> None:
    options = fields(site, certificates)
    async with sk.Sandbox.create("docker", **options, lease_s=LEASE_S) as sandbox:
        process = await patient(sandbox)
        before = sandbox.network.env
        await sandbox.detach(keep_s=LEASE_S)
    assert site.http.seen == []
    async with sk.Sandbox.attach("docker", sandbox.id, **options) as second:
        assert second.network.env == before  # no port more, however often one comes back
        taken = await second.process(process.id)
        assert await taken.stdout.read() == b"hello from api.example.com\n"
        await second.destroy()


@pytest.mark.parametrize("secret", [False, True])
async def test_after_a_kill(site: Site, certificates: Certificates, *, secret: bool) -> None:
    """What the program asks waits; it has the next host's values, under its own names."""
    later = sk.Secret("TOKEN", "the-next-hosts", hosts=HOSTS)
    options = fields(site, certificates, secrets=[later] if secret else ())
    async with (
        killed_host(secret=secret) as (sandbox_id, process_id),
        sk.Sandbox.attach("docker", sandbox_id, **options) as sandbox,
    ):
        taken = await sandbox.process(process_id)
        hello = b"hello from api.example.com\n"
        said = (await taken.stdout.read()).removeprefix(b"ready\n")  # the first host has read it
        assert said == hello * (2 if secret else 1)
        if secret:
            assert site.https.seen[-1].headers["Authorization"] == "Bearer the-next-hosts"
            assert sandbox.network.env["TOKEN"] not in {"the-next-hosts", "the-first-hosts"}


async def test_a_host_beside_one_that_lives_takes_its_place_when_it_is_gone(
    site: Site, certificates: Certificates
) -> None:
    options = fields(site, certificates)
    async with sk.Sandbox.create("docker", **options, lease_s=LEASE_S) as first:
        one = await patient(first)
        async with sk.Sandbox.attach("docker", first.id, **options) as second:
            assert second.network.ports != first.network.ports
            two = await patient(second)
            await first.detach(keep_s=LEASE_S)
            taken = await second.process(one.id)
            assert await taken.stdout.read() == b"hello from api.example.com\n"
            three = await patient(second)
        # Two ways have been left: whoever comes serves both.
        async with sk.Sandbox.attach("docker", first.id, **options) as third:
            for each in (two, three):
                taken = await third.process(each.id)
                assert await taken.stdout.read() == b"hello from api.example.com\n"
            await third.destroy()


async def test_the_policy_is_that_of_the_host_that_is_there(
    site: Site, certificates: Certificates
) -> None:
    options = fields(site, certificates)
    async with sk.Sandbox.create("docker", **options, lease_s=LEASE_S) as sandbox:
        process = await patient(sandbox)
        await sandbox.detach(keep_s=LEASE_S)
    options["network"] = sk.NetworkPolicy.allow([])
    async with sk.Sandbox.attach("docker", sandbox.id, **options) as second:
        taken = await second.process(process.id)
        assert b"api.example.com is not on the list of allowed hosts" in await taken.stdout.read()
        await second.destroy()
    assert site.http.seen == []


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{}",
        "[" * 100_000,
        note_of("A" * 31, {}, None),
        note_of("A" * 32, {"TOKEN": "Bearer"}, None),
        note_of("A" * 32, {}, "/etc/passwd"),
        note_of("A" * 32, {}, "ca-00000000.pem\n"),
        '{"v": 2, "token": "' + "A" * 32 + '"}',
    ],
)
def test_what_is_no_note_is_none(note: str) -> None:
    assert read_way(note) is None


def test_a_note_comes_back() -> None:
    placeholders = {"TOKEN": "sandboxkit-secret-" + "0" * 32}
    way = read_way(note_of("A-_" * 10 + "zz", placeholders, "ca-0123abcd.pem"))
    assert way is not None
    assert (way.placeholders, way.bundle) == (placeholders, "ca-0123abcd.pem")
    assert way.token not in repr(way)
