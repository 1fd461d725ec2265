"""Machines of a pool: their network and their secrets are their owner's."""

from __future__ import annotations

import pytest

import sandboxkit as sk
from tests.gateway.conftest import Site
from tests.gateway.test_sandbox_secrets import VALUE, options
from tests.gateway.world import Certificates

pytestmark = pytest.mark.usefixtures("engine")


async def test_network_and_secrets_are_the_owners(site: Site, certificates: Certificates) -> None:
    fields = options(site, certificates)
    network, secrets, gateway = fields["network"], fields["secrets"], fields["gateway"]
    ask = 'curl -sS -m 30 -i -H "Authorization: Bearer $TOKEN" https://api.example.com/'
    async with sk.Pool("docker", size=2, gateway=gateway) as pool:
        async with pool.claim(network=network, secrets=secrets) as one, pool.claim() as other:
            assert one.network.policy == network
            assert one.info.effective.network == "allow"
            assert "200 OK" in (await one.sh(ask)).check().text
            assert site.https.seen[-1].headers["Authorization"] == f"Bearer {VALUE}"
            assert one.network.env["TOKEN"] not in (await other.sh("env")).text
            assert (await other.sh(ask)).exit_code != 0
            assert other.info.effective.network == "none"
    async with sk.Pool("docker", size=1, network=network, gateway=gateway) as pool:
        async with pool.claim() as sandbox:
            plain = await sandbox.sh("curl -sS -m 30 -i http://api.example.com/")
            assert "200 OK" in plain.check().text
            async with sk.Sandbox.attach("docker", sandbox.id) as same:  # the label says so
                assert [each.field for each in same.info.differences if each.wanted == "allow"]
