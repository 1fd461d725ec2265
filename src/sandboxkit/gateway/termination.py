"""Where the gateway ends the sandbox's TLS, to put secrets in place of their placeholders."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets as random
import ssl
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway.hosts import HostError, canonical_host, literal
from sandboxkit.gateway.http1 import Headers
from sandboxkit.gateway.limits import Limits
from sandboxkit.gateway.refusals import Refusal, forbidden
from sandboxkit.gateway.requests import Target
from sandboxkit.gateway.secrets import Secret, SecretError

if TYPE_CHECKING:
    from sandboxkit.gateway.authority import Authority

_PREFIX = "sandboxkit-secret-"
_HOSTS_KEPT = 256


class Termination:
    """The secrets of one session, and TLS on both sides of the hosts that they go to.

    Args:
        secrets: The secrets; each gets a placeholder of its own, for this session.
        left: The placeholders that an earlier host has given them, by the secrets' names.
        trust: How servers are verified; by the system's certificates if None.
        limits: The deadlines.

    Attributes:
        placeholders: The placeholder of each secret, by the secret's name.

    Raises:
        InvalidSpecError: Two secrets have the same name.
    """

    def __init__(
        self,
        secrets: Sequence[Secret],
        trust: ssl.SSLContext | None,
        limits: Limits,
        left: Mapping[str, str],
    ) -> None:
        self._by_name = {secret.name: secret for secret in secrets}
        if len(self._by_name) != len(secrets):
            raise InvalidSpecError("two secrets have the same name")
        self._limits, self._trust = limits, trust
        self.placeholders = {
            name: left.get(name) or _PREFIX + random.token_hex(16) for name in self._by_name
        }
        self._secrets: dict[str, Secret] = {}
        self.admit(self.placeholders)
        self._revealed: dict[bytes, bytes] = {}  # the last value of each placeholder
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()
        self._made: Authority | None = None

    async def prepare(self) -> None:
        """Make the authority, and load whom to trust."""
        self._made, self._trust = await asyncio.to_thread(self._prepare)

    def _prepare(self) -> tuple[Authority, ssl.SSLContext]:
        try:
            from sandboxkit.gateway.authority import Authority
        except ModuleNotFoundError as error:
            raise ImportError(
                'secrets need the package cryptography: pip install "sandboxkit[gateway]"'
            ) from error
        trust = self._trust
        if trust is None:
            trust = ssl.create_default_context()
            trust.set_alpn_protocols(["http/1.1"])
        rules = tuple(rule for secret in self._secrets.values() for rule in secret.rules)
        return Authority(rules), trust

    def admit(self, placeholders: Mapping[str, str]) -> None:
        """Know the secrets by these placeholders as well, as far as they are secrets here."""
        known = placeholders.keys() & self._by_name.keys()
        self._secrets |= {placeholders[name]: self._by_name[name] for name in known}

    @property
    def ca_pem(self) -> bytes:
        """The certificate of the authority."""
        return self._authority.ca_pem

    @property
    def _authority(self) -> Authority:
        if self._made is None:
            raise RuntimeError("the authority exists inside of the proxy's `async with` only")
        return self._made

    def covers(self, target: Target) -> bool:
        """Whether secrets may go there, so that its TLS is terminated."""
        return any(secret.covers(target.host, target.port) for secret in self._secrets.values())

    async def context(self, host: str) -> ssl.SSLContext:
        """What it takes to speak TLS to the sandbox as a canonical host."""
        context = self._contexts.get(host)
        if context is None:
            context = await asyncio.to_thread(self._authority.context, host)
            context.sni_callback = _NameCheck(host)
            self._contexts[host] = context
            if len(self._contexts) > _HOSTS_KEPT:  # names below `*.` are without number
                self._contexts.popitem(last=False)
        return context

    async def accept(self, context: ssl.SSLContext, writer: asyncio.StreamWriter) -> None:
        """Speak TLS to the sandbox. What came before this call is not part of it.

        Raises:
            OSError: The client does not trust the authority, asks for another host, or
                does not speak TLS.
        """
        await writer.start_tls(context, ssl_handshake_timeout=self._limits.head_s)

    async def secure(self, target: Target, writer: asyncio.StreamWriter) -> None:
        """Speak TLS to the host, and verify that it is the host.

        Raises:
            Refusal: It is not, or the handshake fails.
        """
        assert self._trust is not None  # noqa: S101
        try:
            await writer.start_tls(
                self._trust,
                server_hostname=target.host,
                ssl_handshake_timeout=self._limits.connect_s,
            )
        except (OSError, EOFError) as error:
            reason = getattr(error, "verify_message", "") or type(error).__name__
            message = f"{target.host} is allowed, but TLS with it failed: {reason}"
            raise Refusal(
                502, "unreachable", message, host=target.host, port=target.port, allowed=True
            ) from None

    async def reveal(self, target: Target, path: str, headers: Headers) -> tuple[str, Headers]:
        """Put values in place of placeholders, in header fields and in the query.

        Raises:
            Refusal: A placeholder is on its way to where its value must not go.
        """
        for placeholder, secret in self._secrets.items():
            text = placeholder.encode("ascii")
            before, mark, query = path.partition("?")
            in_headers = any(text in _opened(value) for _, value in headers)
            if not in_headers and placeholder not in path:
                continue
            if not target.secure or not secret.covers(target.host, target.port):
                where = target.host if target.secure else f"{target.host} without TLS"
                message = f"the secret {secret.name} must not go to {where}"
                raise forbidden(message, target.host, target.port)
            if placeholder in before:
                message = f"the secret {secret.name} can stand in headers and the query, no path"
                raise forbidden(message, target.host, target.port)
            try:
                value = await secret.value()
            except SecretError as error:
                raise Refusal(
                    502, "secret", str(error), host=target.host, port=target.port, allowed=True
                ) from None
            raw = self._revealed[text] = value.encode()
            headers = [(name, _put(field, text, raw)) for name, field in headers]
            path = before + mark + query.replace(placeholder, quote(value, safe=""))
        return path, headers

    def conceal(self, headers: Headers) -> Headers:
        """Put placeholders in place of values, in the header fields of an answer."""
        for placeholder, value in self._revealed.items():
            headers = [(name, field.replace(value, placeholder)) for name, field in headers]
        return headers


class _NameCheck:
    """Ends a TLS handshake with a client that asks for another host than its tunnel's."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __call__(self, _: object, name: str | None, __: object) -> int | None:
        try:
            fits = literal(self._host) is not None if name is None else _is(name, self._host)
        except HostError:
            fits = False
        return None if fits else ssl.AlertDescription.ALERT_DESCRIPTION_ACCESS_DENIED


def _is(name: str, host: str) -> bool:
    return canonical_host(name) == host


def _basic(value: bytes) -> bytes | None:
    """The `user:password` of Basic credentials (git and curl write them so); else None."""
    scheme, _, encoded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return None


def _opened(value: bytes) -> bytes:
    credentials = _basic(value)
    return value if credentials is None else credentials


def _put(field: bytes, placeholder: bytes, value: bytes) -> bytes:
    credentials = _basic(field)
    if credentials is None:
        return field.replace(placeholder, value)
    if placeholder not in credentials:
        return field
    return b"Basic " + base64.b64encode(credentials.replace(placeholder, value))
