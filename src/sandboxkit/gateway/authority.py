"""A certificate authority for one session, which only its sandbox trusts."""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandboxkit.gateway.hosts import Rule, literal

_SKEW = timedelta(days=1)  # the clock of the sandbox may be behind
_LIFE = timedelta(days=365)  # it ends with the session's process, whose memory has the key


class Authority:
    """Makes the certificates that the gateway shows to the sandbox.

    Its certificate can vouch for the given hosts only (RFC 5280, name constraints).
    Everything here computes or writes files: call it in a worker thread.

    Args:
        rules: The hosts.
    """

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        name = _name("sandboxkit: one session")
        self._certificate = (
            _builder(name, name, self._key.public_key(), self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.NameConstraints(
                    permitted_subtrees=[_permitted(rule) for rule in rules], excluded_subtrees=None
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        self.ca_pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, host: str) -> ssl.SSLContext:
        """A server's TLS context with a certificate for one canonical host."""
        address = literal(host)
        names = x509.SubjectAlternativeName(
            [x509.DNSName(host) if address is None else x509.IPAddress(address)]
        )
        leaf = (
            _builder(
                _name("sandboxkit"),
                self._certificate.subject,
                self._leaf_key.public_key(),
                self._key.public_key(),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        key = self._leaf_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # ssl takes a certificate from a file only. The directory is for this user alone.
        with tempfile.TemporaryDirectory(prefix="sandboxkit-") as directory:
            file = Path(directory, "leaf.pem")
            file.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + key)
            context.load_cert_chain(file)
        return context


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _permitted(rule: Rule) -> x509.GeneralName:
    address = literal(rule.host)
    return x509.DNSName(rule.host) if address is None else x509.IPAddress(ip_network(address))
