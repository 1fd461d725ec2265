"""Which addresses nothing in a sandbox may reach through the gateway, whatever its policy."""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

# IANA's special-purpose registries, read 2026-01; written out because `ipaddress.is_global`
# changed its mind between patch releases of Python (CVE-2024-4032).
_DENIED_V4 = {
    IPv4Network(network): kind
    for network, kind in {
        "0.0.0.0/8": "unspecified",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared (carrier-grade NAT)",
        "127.0.0.0/8": "loopback",
        # Azure's platform server: a public address that answers inside Azure only.
        "168.63.129.16/32": "cloud metadata",
        "169.254.0.0/16": "link-local (cloud metadata)",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "reserved",
        "192.0.2.0/24": "documentation",
        "192.31.196.0/24": "reserved",
        "192.52.193.0/24": "reserved",
        "192.88.99.0/24": "reserved",
        "192.168.0.0/16": "private",
        "192.175.48.0/24": "reserved",
        "198.18.0.0/15": "benchmarking",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
    }.items()
}
_GLOBAL_V6 = IPv6Network("2000::/3")  # all that IANA gives out; the rest has a name at most
_DENIED_V6 = {
    IPv6Network(network): kind
    for network, kind in {
        "::/128": "unspecified",
        "::1/128": "loopback",
        "fc00::/7": "private",
        "fe80::/10": "link-local",
        "ff00::/8": "multicast",
        "2001::/23": "reserved",  # Teredo among them
        "2001:db8::/32": "documentation",
        "2002::/16": "6to4",
        "3fff::/20": "documentation",
    }.items()
}
_NAT64 = IPv6Network("64:ff9b::/96")

IPAddress = IPv4Address | IPv6Address


def why_denied(address: IPAddress) -> str | None:
    """Why an address is denied always, such as `private`; None if it is a public one.

    The IPv4 address inside an IPv4-mapped or NAT64 address is what counts.
    """
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _DENIED_V4.items() if address in network), None)
    if address.ipv4_mapped is not None:
        return why_denied(address.ipv4_mapped)
    if address in _NAT64:
        return why_denied(IPv4Address(int(address) & 0xFFFF_FFFF))
    kind = next((kind for network, kind in _DENIED_V6.items() if address in network), None)
    return kind or (None if address in _GLOBAL_V6 else "reserved")


def plain(text: str) -> IPAddress:
    """The address that `text` is; an IPv4-mapped one as the IPv4 address that is meant.

    Raises:
        ValueError: It is no address, or one that is bound to a network interface.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} is bound to a network interface")
        return address.ipv4_mapped or address
    return address
