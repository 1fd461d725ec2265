"""Hosts in one canonical form, and the rules that allow some of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from sandboxkit.gateway.addresses import IPAddress, plain, why_denied

DEFAULT_PORTS = (443, 80)

_LONGEST = 253
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_IMPOSSIBLE = re.compile(r"[\x00-\x20\x7f/?#@\\%<>^|\"'`{}*]")


class HostError(ValueError):
    """What was given is no host that a rule could speak of; the message says why."""


def canonical_host(text: str) -> str:
    """The one form of a host in which hosts are compared, resolved and shown.

    Lower case, A-labels for what is not ASCII, no trailing dot; IPv4 addresses in four
    decimal parts, IPv6 addresses compressed and without brackets.

    Raises:
        HostError: It is neither a name nor an address, or an address in an odd form
            (octal, hexadecimal, decimal, short), which resolvers read each in their way.
    """
    if not text or len(text) > _LONGEST + 2:
        raise HostError("a host has 1 to 253 characters")
    if found := _IMPOSSIBLE.search(text):
        raise HostError(f"{found.group()!r} cannot be part of a host")
    if text.startswith("["):
        return str(_address(text[1:-1])) if text.endswith("]") else _fail("the ']' is missing")
    name = (text if text.isascii() else _a_labels(text)).lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels):
        raise HostError("it is not a host name")
    if _NUMBER.fullmatch(labels[-1]):
        address = _address(name)
        if str(address) != name:
            raise HostError(f"an IPv4 address is written {address}")
    return name


def _a_labels(text: str) -> str:
    import idna  # takes 10 ms, and hardly anyone needs it

    try:
        return idna.encode(text, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise HostError(f"it is not an international host name: {error}") from None


def _address(text: str) -> IPAddress:
    try:
        return plain(text)
    except ValueError:
        raise HostError("it is not an IP address in its usual form") from None


def _fail(message: str) -> str:
    raise HostError(message)


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a canonical host is; None if it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def split_authority(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of `host:port`, the host canonical.

    Args:
        text: Such as `example.com:443` or `[2606:4700::1]:443`.
        default_port: The port where none is written; None if it must be.

    Raises:
        HostError: It is not that.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise HostError("it is not a host, or a host and a port")
    host, port = found.groups()
    if port is None and default_port is not None:
        return canonical_host(host), default_port
    return canonical_host(host), _port(port or "")


def _port(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise HostError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def join(host: str, port: int | None = None) -> str:
    """Write a canonical host, and a port, as URLs have them."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


@dataclass(frozen=True, slots=True)
class Rule:
    """An entry of an allow-list.

    Attributes:
        host: The canonical host; with `subdomains`, what comes after `*.`.
        subdomains: Whether all names below `host` are meant, at any depth, and `host`
            itself is not.
        ports: The ports.
    """

    host: str
    subdomains: bool
    ports: tuple[int, ...]

    def names(self, host: str) -> bool:
        """Whether a canonical host is meant, on whatever port."""
        return host.endswith("." + self.host) if self.subdomains else host == self.host

    def __str__(self) -> str:
        port = self.ports[0] if len(self.ports) == 1 else None
        return ("*." if self.subdomains else "") + join(self.host, port)


def parse_rule(entry: str, default_ports: tuple[int, ...] = DEFAULT_PORTS) -> Rule:
    """Read an entry of an allow-list: `host`, `*.host`, `host:port` or `*.host:port`.

    Args:
        entry: What the caller wrote.
        default_ports: The ports where none is written.

    Raises:
        HostError: It is not such an entry, or means a place that is never allowed.
    """
    if "/" in entry or "@" in entry:
        raise HostError("an entry is a host and perhaps a port, not a URL")
    if entry in {"*", "*."}:
        raise HostError("NetworkPolicy.open() allows every host")
    subdomains = entry.startswith("*.")
    found = _AUTHORITY.fullmatch(entry[2:] if subdomains else entry)
    if found is None:
        raise HostError("it is not a host, or a host and a port")
    written, port = found.groups()
    host = canonical_host(written)
    address = literal(host)
    if address is not None:
        if subdomains:
            raise HostError("an IP address has no subdomains")
        if written != join(host):
            raise HostError(f"the IP address is written {join(host)}")
        if kind := why_denied(address):
            raise HostError(f"{kind} addresses are never allowed")
    elif host == "localhost" or host.endswith(".localhost"):
        raise HostError("loopback is never allowed; sandbox.ports.reverse() reaches this machine")
    return Rule(host, subdomains, default_ports if port is None else (_port(port),))
