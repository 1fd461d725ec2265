"""The rules for a sandbox's network, as the real API accepts and refuses them."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from tests.emulators.e2b.refused import Refused

ALL: Final = "0.0.0.0/0"
_DOMAIN: Final = re.compile(
    r"(\*\.)?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]+|\*", re.IGNORECASE
)
_FIELDS: Final = frozenset(
    {"allowOut", "denyOut", "allowPublicTraffic", "dnsServers", "httpsPorts", "maskRequestHost"}
)


def check(network: dict[str, Any]) -> None:
    """Look through what a request says of the network.

    Raises:
        Refused: The API would not take it.
    """
    if unknown := network.keys() - _FIELDS:
        raise Refused(400, f"not emulated: network {sorted(unknown)}")
    allowed: list[str] = network.get("allowOut") or []
    denied: list[str] = network.get("denyOut") or []
    for entry in denied:
        if not is_address(entry):
            raise Refused(400, f"invalid denied CIDR {entry}")
    for entry in allowed:
        if not is_address(entry) and not _DOMAIN.fullmatch(entry):
            raise Refused(400, f"invalid allowed address {entry}")
    if any(not is_address(entry) for entry in allowed) and ALL not in denied:
        raise Refused(
            400,
            "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in "
            "deny out to block all other traffic.",
        )


def is_open(body: dict[str, Any]) -> bool:
    """Whether there is any network: to filter it by name is more than is emulated."""
    network: dict[str, Any] = body.get("network") or {}
    denied: list[str] = network.get("denyOut") or []
    return body.get("allow_internet_access") is not False and ALL not in denied


def is_address(entry: str) -> bool:
    """Whether it is an address or a block of them, not a name."""
    try:
        ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return entry not in {"0.0.0.0", "::"}  # without a length they mean nothing
