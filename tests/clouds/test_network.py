"""A list of hosts means the same on every backend: the gateway keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import sandboxkit as sk
from tests.clouds.conftest import Backend
from tests.gateway.world import PUBLIC, Certificates, Origin, World

pytestmark = pytest.mark.timeout(300)  # the first sandbox of a cloud may build its image

# What every image with a guest has: no curl.
FETCH = """
import os, sys, urllib.error, urllib.request
for url in sys.argv[1:]:
    headers = {"X-Key": os.environ.get("API_KEY", "")}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            print(answer.status, answer.read().decode().strip())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().strip())
    except urllib.error.URLError as error:
        print("no answer:", error.reason)
"""


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def origin(certificates: Certificates) -> Iterator[Origin]:
    origin = Origin(certificates.server("api.example.com"))
    yield origin
    origin.close()


async def test_a_list_of_hosts_and_a_secret(
    backend: Backend, origin: Origin, certificates: Certificates
) -> None:
    world = World({"api.example.com": [PUBLIC]}, {(PUBLIC, 443): origin.port})
    async with sk.Sandbox.create(
        backend.name,
        network=sk.NetworkPolicy.allow(["api.example.com"]),
        secrets=[sk.Secret("API_KEY", "the-value", hosts=["api.example.com"])],
        gateway=sk.Gateway(resolve=world.resolve, dial=world.dial, trust=certificates.trust()),
    ) as sandbox:
        assert sandbox.info.effective.network == "allow"
        urls = ("https://api.example.com/", "http://evil.example/", "https://evil.example/")
        done = await sandbox.exec(["python3", "-c", FETCH, *urls], timeout_s=60)
        reached, refused, failed = done.check().text.splitlines()
        assert reached == "200 hello from api.example.com"
        assert refused.startswith("403 ")
        assert "the secret API_KEY must not go to evil.example without TLS" in refused
        assert "403 Forbidden by the network policy" in failed
        assert origin.seen[0].headers["X-Key"] == "the-value"
        assert (await sandbox.sh("env")).text.count("the-value") == 0

        # Past the gateway there is nothing, for the same program.
        bare = {name: "" for name in sandbox.network.env if name.lower().endswith("_proxy")}
        done = await sandbox.exec(["python3", "-c", FETCH, urls[0]], env=bare, timeout_s=60)
        assert done.check().text.startswith("no answer:")

        await sandbox.network.set(sk.NetworkPolicy.allow([]))
        done = await sandbox.exec(["python3", "-c", FETCH, urls[0]], timeout_s=60)
        assert "403 Forbidden" in done.check().text
    assert set(world.asked) == {"api.example.com"}
    assert await backend.alive() == set()
