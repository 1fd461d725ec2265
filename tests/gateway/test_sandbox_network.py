"""A sandbox whose only way out is the gateway: real programs, on a real engine."""

from __future__ import annotations

import pytest

import sandboxkit as sk
from tests.gateway.conftest import Site

pytestmark = pytest.mark.usefixtures("engine")

CURL = ("curl", "-sS", "-m", "20")


def create(site: Site, hosts: list[str], **fields: object) -> object:
    gateway = sk.Gateway(resolve=site.world.resolve, dial=site.world.dial)
    network = sk.NetworkPolicy.allow(hosts)
    return sk.Sandbox.create("docker", network=network, gateway=gateway, **fields)


async def test_allowed_hosts_are_reached_and_others_are_not(site: Site) -> None:
    async with create(site, ["api.example.com"]) as sandbox:
        print(sandbox.network.env, sandbox.info.effective)
        done = await sandbox.exec([*CURL, "http://api.example.com/"])
        print(done, done.stderr, done.stdout)
        done = await sandbox.exec([*CURL, "http://evil.example/"])
        print(done, done.stderr, done.stdout)
        print(await sandbox.sh("which curl git node npm pip wget python3; ls /etc/ssl/certs | wc -l; id; env"))
        print((await sandbox.sh("which curl git node npm pip wget python3; ls /etc/ssl/certs | wc -l; id; env; cat /etc/os-release | head -2")).text)
