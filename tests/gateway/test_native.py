"""Policies that a backend keeps by its own filter, and backends that can keep none."""

from __future__ import annotations

import pytest

import sandboxkit as sk
from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.base import Capabilities
from sandboxkit.testing import MemoryProvider

HOSTS = ["api.example.com"]
NATIVE = sk.NetworkPolicy.allow(HOSTS, native=True)


def provider(*modes: str) -> MemoryProvider:
    return MemoryProvider(capabilities=Capabilities("none", network=frozenset(modes)))


async def test_a_backend_with_a_filter_of_its_own_keeps_the_list() -> None:
    async with sk.Sandbox.create(provider("none", "allow"), network=NATIVE) as sandbox:
        assert sandbox.info.effective.network == "allow"
        assert (sandbox.network.env, sandbox.network.traffic) == ({}, None)
        for policy in (sk.NetworkPolicy.none(), sk.NetworkPolicy.allow(HOSTS)):
            with pytest.raises(UnsupportedError, match=r"'allow' \(native\) is the backend's own"):
                await sandbox.network.set(policy)
        with pytest.raises(UnsupportedError, match="native"):
            await sandbox.network.allow("other.example")


@pytest.mark.parametrize("strict", [True, False])
async def test_a_backend_without_one_refuses_and_names_the_alternative(strict: bool) -> None:
    with pytest.raises(UnsupportedError, match="without native=True the gateway keeps it"):
        await sk.Sandbox.create(provider("none"), network=NATIVE, strict=strict)


@pytest.mark.parametrize("strict", [True, False])
async def test_a_backend_that_cannot_take_the_network_away_refuses_a_list(strict: bool) -> None:
    policy = sk.NetworkPolicy.allow(HOSTS)
    with pytest.raises(UnsupportedError, match="cannot take the network away"):
        await sk.Sandbox.create(provider("open"), network=policy, strict=strict)


async def test_of_several_all_must_be_able_to_keep_the_list() -> None:
    several = [provider("none"), provider("open")]
    with pytest.raises(UnsupportedError, match="cannot take the network away"):
        await sk.Sandbox.create(several, network=sk.NetworkPolicy.allow(HOSTS))
    assert several[0].creates == 0
