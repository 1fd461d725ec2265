"""Hosts have one form, and a policy is checked when it is made."""

from __future__ import annotations

import pytest

from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway.addresses import plain, why_denied
from sandboxkit.gateway.hosts import HostError, canonical_host, split_authority
from sandboxkit.gateway.policy import Rules
from sandboxkit.spec import NetworkPolicy, SandboxSpec


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("API.Example.COM", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("my_bucket.s3.amazonaws.com", "my_bucket.s3.amazonaws.com"),
        ("1.1.1.1", "1.1.1.1"),
        ("[2606:4700:0:0::1111]", "2606:4700::1111"),
        ("[2606:4700::ABCD]", "2606:4700::abcd"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
    ],
)
def test_a_host_has_one_form(written: str, canonical: str) -> None:
    assert canonical_host(written) == canonical
    bracketed = f"[{canonical}]" if ":" in canonical else canonical
    assert canonical_host(bracketed) == canonical


@pytest.mark.parametrize(
    "written",
    [
        "",
        ".",
        "a..b",
        "evil.test\0.example.com",
        "api.example.com\0",
        "api example.com",
        "api.example.com\r\nX: y",
        "user@api.example.com",
        "api.example.com/x",
        "api.example.com#x",
        "api.example.com\\x",
        "api.example.com%00",
        "-a.example.com",
        "a-.example.com",
        "api.example.com..",
        "a" * 64 + ".example.com",
        ".".join(["abcdefgh"] * 30),
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.01",
        "127.0.0.1.2",
        "1.2.3.256",
        "a.b.1",
        "a.0x",
        "::1",
        "[::1",
        "[::1]x",
        "[fe80::1%eth0]",
        "[127.0.0.1]x",
        "bücher\u2044.example",
        "xn\u2024.exa mple",
        "\u200b.example",
    ],
)
def test_what_is_no_host_is_refused(written: str) -> None:
    with pytest.raises(HostError):
        canonical_host(written)


def test_digits_of_other_scripts_are_not_a_way_round() -> None:
    assert canonical_host("１２７.0.0.1") == "127.0.0.1"  # which is then denied as loopback
    with pytest.raises(HostError):
        canonical_host("０x7f.0.0.1")


@pytest.mark.parametrize("text", ["a:", "a:0", "a:65536", "a:443x", "a:+1", "a:0443", "a", "a:1:2"])
def test_a_port_is_a_plain_number(text: str) -> None:
    with pytest.raises(HostError):
        split_authority(text)


def test_policies_keep_hosts_in_canonical_form() -> None:
    policy = NetworkPolicy.allow(
        [
            *("API.Example.com", "*.bücher.example:443", "example.net:8080", "1.1.1.1:853"),
            *("[2606:4700::1111]:443", "api.example.com"),
        ]
    )
    assert policy.hosts == (
        "api.example.com",
        "*.xn--bcher-kva.example:443",
        "example.net:8080",
        "1.1.1.1:853",
        "[2606:4700::1111]:443",
    )
    assert NetworkPolicy.model_validate(policy.model_dump()) == policy
    assert SandboxSpec(network=policy).network == policy


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "*.*.example.com",
        "api.*.com",
        "*example.com",
        "https://api.example.com",
        "api.example.com/v1",
        "user@api.example.com",
        "api.example.com:0",
        "api.example.com:https",
        "api.example.com\0",
        "0x7f.1",
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.168.1.1:8080",
        "224.0.0.1",
        "[::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[::ffff:1.1.1.1]",
        "[64:ff9b::7f00:1]",
        "[2606:4700:0:0::1111]",
        "2606:4700::1111",
        "*.1.1.1.1",
        "1.1.1.1.",
        "localhost",
        "x.localhost",
        "*.localhost",
    ],
)
def test_a_wrong_entry_is_named(entry: str) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        NetworkPolicy.allow(["api.example.com", entry])
    assert f"{entry!r} is not an entry" in str(caught.value)


def test_modes_and_what_belongs_to_them() -> None:
    assert NetworkPolicy() == NetworkPolicy.none()
    assert NetworkPolicy.allow(["a.example"], native=True).native
    for wrong in (
        {"mode": "open", "hosts": ["a.example"]},
        {"hosts": ["a.example"]},
        {"mode": "none", "native": True},
        {"mode": "allow", "hosts": "a.example"},
    ):
        with pytest.raises(InvalidSpecError):
            SandboxSpec.build(None, network=wrong)
    with pytest.raises(InvalidSpecError, match="hosts"):
        NetworkPolicy.allow("a.example")


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("api.example.com", 443, True),
        ("api.example.com", 80, True),
        ("api.example.com", 22, False),
        ("evil-api.example.com", 443, False),
        ("api.example.com.evil.test", 443, False),
        ("xapi.example.com", 443, False),
        ("example.com", 443, False),
        ("a.example.org", 443, True),
        ("a.b.c.example.org", 443, True),
        ("a.example.org", 80, False),
        ("example.org", 443, False),
        ("evilexample.org", 443, False),
        ("evil-example.org", 443, False),
        ("example.org.evil.test", 443, False),
        ("example.net", 8080, True),
        ("example.net", 443, False),
        ("1.1.1.1", 443, True),
        ("1.1.1.2", 443, False),
    ],
)
def test_a_list_allows_its_hosts_and_no_others(host: str, port: int, allowed: bool) -> None:
    rules = Rules(
        NetworkPolicy.allow(["api.example.com", "*.example.org:443", "example.net:8080", "1.1.1.1"])
    )
    assert (rules.refusal(host, port) is None) is allowed


def test_an_empty_list_allows_nothing() -> None:
    for policy in (NetworkPolicy.allow([]), NetworkPolicy(mode="allow"), NetworkPolicy.none()):
        assert Rules(policy).refusal("api.example.com", 443)
    assert Rules(NetworkPolicy.open()).refusal("api.example.com", 22) is None


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1"),
        *("127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
        *("192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.251"),
        *("240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::127.0.0.1"),
        *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001::1", "2001:db8::1"),
        *("100::1", "fec0::1", "3fff::1", "5f00::1"),
    ],
)
def test_addresses_that_are_never_reached(address: str) -> None:
    assert why_denied(plain(address))


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1"),
        *("192.169.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1", "64:ff9b::808:808"),
    ],
)
def test_public_addresses_are_reached(address: str) -> None:
    assert why_denied(plain(address)) is None
