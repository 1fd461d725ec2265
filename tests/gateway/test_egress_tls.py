"""A hostile sandbox at the egress proxy: tunnels, and what is said first in them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct

import pytest

from sandboxkit.gateway.clienthello import NotTls, server_name
from tests.gateway.conftest import Site
from tests.gateway.world import PUBLIC, Certificates, curl, tunnel

ALLOWED = ["api.example.com", "*.example.org"]
ALERT = bytes((21, 3, 3, 0, 2, 2, 49))


async def test_a_tunnel_is_for_its_own_name_only(site: Site, certificates: Certificates) -> None:
    site.world.names["www.example.org"] = [PUBLIC]
    async with site.world.egress([*ALLOWED, PUBLIC]) as egress:
        for host, name in (
            ("api.example.com", "evil.test"),
            ("api.example.com", "www.example.org"),  # allowed, but another one
            ("api.example.com", "api.example.com.evil.test"),
            ("api.example.com", None),
            (PUBLIC, "evil.test"),
        ):
            client = await tunnel(egress, f"{host}:443")
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
                await client.writer.start_tls(context, server_hostname=name or "")
            client.close()
            assert egress.decisions[-1].method == "TLS"
            assert egress.decisions[-1].allowed is False
        trust = ("--cacert", certificates.ca_file)
        front = ("--connect-to", "evil.test:443:api.example.com:443", "https://evil.test/")
        code, _, err = await curl(egress, *trust, *front)
        assert code == 35, err
        assert "access denied" in err
    assert site.https.seen == []


@pytest.mark.parametrize(
    "first",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"\x16\x03\x01\x00\x00" + bytes(16),
        b"\x16\x03\x01\xff\xff" + bytes(16),
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x17\x03\x03\x00\x04abcd",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
        b"\x16\x03\x01",
        b"",
    ],
)
async def test_port_443_is_for_tls(site: Site, first: bytes) -> None:
    got = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.read())

    async with site.world.tcp(PUBLIC, 443, listen), site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        await client.send(first)
        client.writer.write_eof()
        assert await client.rest() == ALERT
        client.close()
    assert got == b""


def hello(name: bytes | None, *more: tuple[int, bytes]) -> bytes:
    """A ClientHello message, by hand."""
    extensions = list(more)
    if name is not None:
        entry = b"\0" + struct.pack(">H", len(name)) + name
        extensions.append((0, struct.pack(">H", len(entry)) + entry))
    packed = b"".join(struct.pack(">HH", kind, len(data)) + data for kind, data in extensions)
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0"
    body += struct.pack(">H", len(packed)) + packed
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(message: bytes, size: int) -> bytes:
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in parts)


def test_the_name_in_a_client_hello() -> None:
    assert server_name(hello(b"api.example.com")) == "api.example.com"
    assert server_name(hello(None)) is None
    for wrong in (
        hello(b"api.example.com", (0xFE0D, b"\0" * 40)),  # the real name is encrypted
        hello(b"api.example.com", (0, b"\0\x0c\0\0\x09evil.test")),  # two names
        hello(b"api.example.com") + b"\1",
        hello(b"\xff.example.com"),
        hello(None, (0, b"\0\x18\0\0\x09evil.test\0\0\x09evil.test")),
        hello(None, (0, b"\0\x0c\1\0\x09evil.test")),
        hello(None, (0, b"\0\x0c\0\0\xffevil.test")),
        hello(None, (0, b"")),
        *(hello(b"api.example.com")[:cut] for cut in range(4, 50)),
    ):
        with pytest.raises(NotTls):
            server_name(wrong)


@pytest.mark.parametrize("name", [b"evil.test", b"api.example.com\0.evil.test", b"", None])
async def test_names_that_openssl_would_not_send(site: Site, name: bytes | None) -> None:
    async with site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        await client.send(records(hello(name), 16384))
        assert await client.rest() == ALERT
        client.close()


async def test_a_client_hello_in_many_records_and_pieces(site: Site) -> None:
    got = bytearray()
    wanted = records(hello(b"API.example.com", (21, bytes(4000))), 7)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readexactly(len(wanted)))
        writer.write(b"whole")

    async with site.world.tcp(PUBLIC, 443, listen), site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        for at in range(0, len(wanted), 97):
            await client.send(wanted[at : at + 97])
        assert await client.rest() == b"whole"
        client.close()
    assert got == wanted


async def test_an_endless_client_hello_is_bounded(site: Site) -> None:
    async with site.world.egress(ALLOWED) as egress:
        client = await tunnel(egress, "api.example.com:443")
        with contextlib.suppress(ConnectionError):
            await client.send(records(b"\1\xff\xff\xff" + bytes(1_000_000), 16384))
        assert (await client.rest())[:7] in {ALERT, b""}
        assert egress.decisions[-1].reason == "the TLS ClientHello is too long"
        client.close()
