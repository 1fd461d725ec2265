"""The variables by which programs in a sandbox find the gateway, and trust it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

_LOOPBACK: Final = "localhost,127.0.0.1,::1"
_TRUST: Final = (
    "SSL_CERT_FILE",  # OpenSSL, Python, Go, Ruby, wget2
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
)


def proxy_environment(port: int, token: str) -> dict[str, str]:
    """What leads programs to the proxy.

    Args:
        port: Where it is, on the sandbox's loopback.
        token: The password for it.
    """
    url = f"http://sandboxkit:{token}@127.0.0.1:{port}"
    env = {"NO_PROXY": _LOOPBACK}
    env |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), url)
    env |= {name.lower(): value for name, value in env.items()}  # curl and wget read these
    return {
        **env,
        "NODE_USE_ENV_PROXY": "1",  # node's own fetch, from version 22.21 and 24.5 on
        "GIT_HTTP_PROXY_AUTHMETHOD": "basic",  # git would ask without the token first
    }


def trust_environment(bundle: str) -> dict[str, str]:
    """What makes programs trust the certificates in a file of the sandbox."""
    return dict.fromkeys(_TRUST, bundle)


def added(ours: Mapping[str, str], theirs: Mapping[str, str] | None) -> dict[str, str]:
    """Our variables beside those of the caller, which win; those of proxies in any case."""
    return {**without(ours, theirs or {}), **(theirs or {})}


def without(ours: Mapping[str, str], theirs: Iterable[str]) -> dict[str, str]:
    """Our variables but those that the caller has set."""
    taken = {_same(name) for name in theirs}
    return {name: value for name, value in ours.items() if _same(name) not in taken}


def _same(name: str) -> str:
    return name.lower() if name.lower().endswith("_proxy") else name
