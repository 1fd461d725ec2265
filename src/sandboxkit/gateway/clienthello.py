"""The name that a TLS client asks for, read from its first message (RFC 8446, 6066)."""

from __future__ import annotations

import asyncio

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ENCRYPTED_CLIENT_HELLO = 0xFE0D
_LONGEST = 32 * 1024  # real ones have 200 to 2,000 bytes

ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))
"""A fatal alert, which tells a TLS client that it was policy that ended the connection."""


class NotTls(Exception):
    """The bytes are no ClientHello, or one that hides for whom it is; the message says why."""


async def read_client_hello(reader: asyncio.StreamReader) -> tuple[bytes, str | None]:
    """Read a whole ClientHello.

    Returns:
        The bytes as they came, and the server's name (None if there is none).

    Raises:
        NotTls: It is not one.
    """
    raw, message = bytearray(), bytearray()
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        try:
            header = await reader.readexactly(5)
            length = int.from_bytes(header[3:], "big")
            if header[0] != _HANDSHAKE or header[1] != 3 or not 0 < length <= 16384:
                raise NotTls("what was sent is not TLS")
            record = await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise NotTls("the connection ended before a TLS ClientHello") from None
        raw += header + record
        message += record
        if message[0] != _CLIENT_HELLO:
            raise NotTls("what was sent is not a TLS ClientHello")
        if len(raw) > _LONGEST:
            raise NotTls("the TLS ClientHello is too long")
    return bytes(raw), server_name(bytes(message))


def server_name(message: bytes) -> str | None:
    """The server's name in a ClientHello message; None if there is none.

    Raises:
        NotTls: The message is not well formed, or encrypts the real name (ECH).
    """
    body = _Fields(message[4:])
    if body.left != int.from_bytes(message[1:4], "big"):
        raise NotTls("something follows the TLS ClientHello")
    body.take(2 + 32)  # version, random
    body.vector(1)  # session id
    body.vector(2)  # cipher suites
    body.vector(1)  # compression methods
    found: dict[int, _Fields] = {}
    extensions = body.vector(2) if body.left else _Fields(b"")
    while extensions.left:
        kind = extensions.number(2)
        if kind in found:
            raise NotTls("the TLS ClientHello has an extension twice")
        found[kind] = extensions.vector(2)
    if _ENCRYPTED_CLIENT_HELLO in found:
        raise NotTls("the TLS ClientHello is encrypted (ECH), so its host cannot be checked")
    if _SERVER_NAME not in found:
        return None
    names = found[_SERVER_NAME].vector(2)
    if names.number(1) != 0:
        raise NotTls("the TLS ClientHello has an unknown kind of name")
    name = names.vector(2)
    if names.left or found[_SERVER_NAME].left:
        raise NotTls("the TLS ClientHello has several names")
    try:
        return name.take(name.left).decode("ascii")
    except UnicodeDecodeError:
        raise NotTls("the name in the TLS ClientHello is not ASCII") from None


class _Fields:
    """Reads what TLS writes: numbers, and vectors with their length before them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise NotTls("the TLS ClientHello is not well formed")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Fields:
        return _Fields(self.take(self.number(size)))
