"""Secrets of a sandbox: the host that they are for gets them, the sandbox never has them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import docker
import pytest

import sandboxkit as sk
from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.spec import OWNER_LABEL
from tests.gateway.conftest import Site
from tests.gateway.world import OTHER_PUBLIC, Certificates, Origin
from tests.leaks import OWNER

pytestmark = pytest.mark.usefixtures("engine")

VALUE = "sk-canary-4f9d1c7be2"
HOSTS = ["api.example.com"]
SEARCH = """
import os, sys
wanted = sys.stdin.read().encode()[::-1]  # the searcher itself must not hold it
found = []
for root in ("/proc", "/home", "/tmp", "/work", "/opt", "/etc", "/run", "/var", "/dev/shm"):
    for directory, below, files in os.walk(root):
        if root == "/proc":
            below[:] = [name for name in below if name.isdigit()] if directory == "/proc" else []
            files = [name for name in files if name in ("environ", "cmdline", "maps", "status")]
        for name in files:
            path = os.path.join(directory, name)
            try:
                if os.path.isfile(path) and wanted in open(path, "rb").read():
                    found.append(path)
            except OSError:
                pass
print(found, wanted in repr(sorted(os.environ.items())).encode())
"""


def options(site: Site, certificates: Certificates, **more: Any) -> dict[str, Any]:
    return {
        "network": sk.NetworkPolicy.allow(["api.example.com", "other.example"]),
        "gateway": sk.Gateway(
            resolve=site.world.resolve, dial=site.world.dial, trust=certificates.trust()
        ),
        "secrets": [sk.Secret("TOKEN", VALUE, hosts=HOSTS)],
        **more,
    }


async def test_the_value_goes_to_its_host_and_is_nowhere_else(
    site: Site, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    other = Origin(certificates.server("other.example"))
    site.world.names["other.example"] = [OTHER_PUBLIC]
    site.world.places[OTHER_PUBLIC, 443] = other.port
    caplog.set_level("DEBUG")
    fields = options(site, certificates)
    async with sk.Sandbox.create("docker", **fields) as sandbox:
        ask = 'curl -sS -m 30 -H "Authorization: Bearer $TOKEN"'
        done = await sandbox.sh(f"{ask} https://api.example.com/echo-headers -i")
        placeholder = sandbox.network.env["TOKEN"]
        assert f"X-Echo: Bearer {placeholder}" in done.check().text
        assert site.https.seen[-1].headers["Authorization"] == f"Bearer {VALUE}"

        done = await sandbox.sh(f"{ask} -k https://other.example/")
        assert other.seen[-1].headers["Authorization"] == f"Bearer {placeholder}"
        done = await sandbox.sh(f"{ask} http://api.example.com/")
        assert "the secret TOKEN must not go to api.example.com without TLS" in done.text
        assert site.http.seen == []

        # As the sandbox's user, and as the most powerful one that there is.
        for user in (None, "root"):
            search = ["python3", "-c", SEARCH]
            done = await sandbox.exec(search, stdin=VALUE[::-1].encode(), user=user)
            assert done.check().text == "[] False\n"
        # The search finds what there is.
        done = await sandbox.exec(search, stdin=placeholder[::-1].encode())
        assert ("/environ" in done.check().text, "True" in done.text) == (True, True)
        engine: Any = docker.from_env()
        container = await asyncio.to_thread(engine.containers.get, sandbox.id)
        engine.close()
        network = sandbox.network
        seen = f"{container.attrs} {sandbox!r} {sandbox.info} {network!r} {network.env}"
        assert VALUE not in seen + str(network.decisions) + caplog.text + repr(fields)
    other.close()


async def test_two_sandboxes_do_not_trust_one_another(
    site: Site, certificates: Certificates
) -> None:
    async with (
        sk.Sandbox.create("docker", **options(site, certificates)) as one,
        sk.Sandbox.create("docker", **options(site, certificates)) as other,
    ):
        assert one.network.env["TOKEN"] != other.network.env["TOKEN"]
        bundle = other.network.env["SSL_CERT_FILE"]
        await one.files.write("other.pem", await other.files.read(bundle))
        ask = ["curl", "-sS", "-m", "30", "https://api.example.com/"]
        assert (await one.exec(ask, env={"CURL_CA_BUNDLE": "/work/other.pem"})).exit_code == 60
        assert (await one.exec(ask)).exit_code == 0


async def test_the_agent_cannot_change_whom_the_sandbox_trusts(
    site: Site, certificates: Certificates
) -> None:
    async with sk.Sandbox.create("docker", **options(site, certificates)) as sandbox:
        bundle = sandbox.network.env["SSL_CERT_FILE"]
        assert (await sandbox.sh(f"echo >> {bundle} || rm -f {bundle}")).exit_code != 0
        # What the image trusts is still trusted.
        system = await sandbox.files.read("/etc/ssl/certs/ca-certificates.crt")
        assert (await sandbox.files.read(bundle)).startswith(system)


@pytest.fixture
def sealed(engine: str) -> Iterator[str]:
    """The default image, in which no place can be written to that stays."""
    client: Any = docker.DockerClient(base_url=engine)
    tag = "sandboxkit-tests/sealed:1"
    script = "rm -rf /opt && touch /opt && rm -rf /home/agent/.sandboxkit && chown 0 /home/agent"
    container = client.containers.create(
        asyncio.run(default_image()), ["/bin/sh", "-ec", script], user="0", entrypoint=""
    )
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0
        container.commit(*tag.split(":"))
    finally:
        container.remove(force=True)
    yield tag
    client.images.remove(tag, force=True)
    client.close()


async def default_image() -> str:
    async with sk.Sandbox.create("docker") as sandbox:
        return str(sandbox.info.effective.image)


async def test_where_no_certificate_can_be_brought_creation_refuses(
    sealed: str, site: Site, certificates: Certificates
) -> None:
    with pytest.raises(UnsupportedError, match="secrets need a file of certificates"):
        await sk.Sandbox.create("docker", **options(site, certificates, image=sealed))
    provider = DockerProvider()
    alive = [info.id async for info in provider.list({OWNER_LABEL: OWNER})]
    await provider.aclose()
    assert alive == []
