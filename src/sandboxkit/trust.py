"""Having the programs of a sandbox trust the certificate of its gateway."""

from __future__ import annotations

import secrets
import ssl
from pathlib import Path
from typing import Final

import anyio.to_thread

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.files import Files
from sandboxkit.errors import FileError, UnsupportedError

_SYSTEM: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)
_LONGEST: Final = 8 * 1024**2


async def install(
    client: GuestClient, ca_pem: bytes, owner: str | None, left: str | None = None
) -> str:
    """Write a bundle into the sandbox: what it trusts already, and one certificate.

    It lies where the sandbox's user cannot change it, if there is such a place.

    Args:
        client: The way into the sandbox.
        ca_pem: The certificate.
        owner: Who may write where the sandbox's user cannot; None if nobody.
        left: The name of the file of a host that is gone: this one takes its place.

    Returns:
        The path in the sandbox.

    Raises:
        UnsupportedError: There is no place for it.
    """
    bundle = await _trusted(Files(lambda: client)) + b"\n" + ca_pem
    name = left or f"ca-{secrets.token_hex(4)}.pem"  # another host may have one here as well
    fresh = left is None
    home = client.welcome.get("home")
    places: list[tuple[str | None, str]] = [(None, f"{home}/.sandboxkit/{name}")]
    if owner is not None:
        places.insert(0, (owner, f"/opt/sandboxkit/{name}"))
    reason = "no place"
    for user, path in places:
        try:
            await Files(lambda: client, user=user).write(path, bundle, mode=0o644, exclusive=fresh)
            await Files(lambda: client).stat(path)  # whether its user can see it there
        except FileError as error:
            reason = error.message
        else:
            return path
    raise UnsupportedError(
        "secrets need a file of certificates in the sandbox, and it could not be written: "
        f"{reason}. Use an image whose user has a home directory that can be written to"
    )


async def _trusted(files: Files) -> bytes:
    for path in _SYSTEM:
        try:
            return await files.read(path, max_bytes=_LONGEST)
        except FileError:
            continue
    return await anyio.to_thread.run_sync(_of_this_machine)


def _of_this_machine() -> bytes:
    file = ssl.get_default_verify_paths().cafile or ""
    return Path(file).read_bytes() if file else b""
