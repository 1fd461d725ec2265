"""Hosts that the tests of the gateway share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.gateway.world import PUBLIC, Certificates, Origin, World


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@dataclass
class Site:
    """`api.example.com`, with HTTP and HTTPS, in a world where only it exists."""

    world: World
    http: Origin
    https: Origin


@pytest.fixture
def site(certificates: Certificates) -> Iterator[Site]:
    http, https = Origin(), Origin(certificates.server("api.example.com"))
    world = World(
        names={"api.example.com": [PUBLIC]},
        places={(PUBLIC, 80): http.port, (PUBLIC, 443): https.port},
    )
    yield Site(world, http, https)
    http.close()
    https.close()
