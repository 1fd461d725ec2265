"""Which Docker engine is meant: the argument, the environment, or the current context."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from sandboxkit.errors import InvalidSpecError

if TYPE_CHECKING:
    from docker.tls import TLSConfig

DEFAULT_HOST = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of an engine.

    Attributes:
        host: As in `DOCKER_HOST`: `unix://`, `tcp://` or `ssh://`.
        source: Who named it, for messages.
        tls: What docker-py needs to speak TLS; None is plain.
        tls_context: The same for a connection of our own.
    """

    host: str
    source: str
    tls: TLSConfig | None = None
    tls_context: ssl.SSLContext | None = None

    @property
    def parts(self) -> SplitResult:
        """Scheme, host, port, path."""
        return urlsplit(self.host)


def resolve(host: str | None = None, context: str | None = None) -> Endpoint:
    """Find the engine as the docker command does; blocks on a few small files.

    The order: `host`, `context`, `DOCKER_HOST` (with `DOCKER_TLS_VERIFY` and
    `DOCKER_CERT_PATH`), `DOCKER_CONTEXT`, the current context, the default socket.

    Raises:
        InvalidSpecError: There is no such context, its certificates cannot be read, or
            the address is of a kind that is not supported.
    """
    from docker.context import Context, ContextAPI
    from docker.errors import TLSParameterError

    try:
        if host is not None:
            return _endpoint(host, "the argument `host`", _tls_of_environment(host))
        variable = os.environ.get("DOCKER_HOST")
        if context is None and variable:
            return _endpoint(variable, "DOCKER_HOST", _tls_of_environment(variable))
        name = context or os.environ.get("DOCKER_CONTEXT") or None
        found: Context | None = ContextAPI.get_context(name)
        if found is None:  # pyright: ignore[reportUnnecessaryComparison] - the stub is wrong
            raise InvalidSpecError(
                f"There is no Docker context {name or 'of the configured name'}: see "
                "`docker context ls`, or set DOCKER_HOST.",
                provider="docker",
            )
        if found.Name == "default":
            tls = _tls_of_environment(DEFAULT_HOST)
            return _endpoint(found.Host or DEFAULT_HOST, "the default", tls)
        return _endpoint(found.Host or "", f"the Docker context {found.Name}", found.TLSConfig)
    except (TLSParameterError, ssl.SSLError, OSError) as error:
        raise InvalidSpecError(
            f"The certificates for the Docker engine cannot be used: {error}. "
            "Check DOCKER_CERT_PATH, or the context's certificates.",
            provider="docker",
        ) from error


def _endpoint(host: str, source: str, tls: TLSConfig | None) -> Endpoint:
    plain = host.removeprefix("http+")  # docker-py's own spelling of unix://
    scheme = urlsplit(plain).scheme
    if scheme in {"http", "https"}:
        plain = "tcp" + plain.removeprefix(scheme)
    elif scheme not in {"unix", "tcp", "ssh"}:
        raise InvalidSpecError(
            f"The Docker engine's address {host!r}, named by {source}, is not supported: "
            "it must start with unix://, tcp:// or ssh://.",
            provider="docker",
        )
    return Endpoint(plain, source, tls, _context_of(tls) if tls is not None else None)


def _tls_of_environment(host: str) -> TLSConfig | None:
    from docker.utils import kwargs_from_env

    if not host.startswith(("tcp:", "http:", "https:")):
        return None
    tls: TLSConfig | None = kwargs_from_env().get("tls")
    return tls


def _context_of(tls: TLSConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_cert or None)
    if not tls.verify:  # as the docker command does with DOCKER_TLS_VERIFY unset
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(*tls.cert)
    return context
