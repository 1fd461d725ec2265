"""PROVISIONAL, until the gateway exists: the one place that handles the model's key.

The key stays on the host. In the sandbox, the CLI talks to a loopback port; a reverse
tunnel carries that to the model, through a relay that adds the key where there is one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sandboxkit.agents.claude_code.relay import Relay
from sandboxkit.errors import AuthenticationError, InvalidSpecError, UnsupportedError

if TYPE_CHECKING:
    from sandboxkit.sandbox import Sandbox

DEFAULT_URL: Final = "https://api.anthropic.com"
CREDENTIALS: Final = frozenset(
    {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"}
)
"""Variables that never enter a sandbox."""

_NEEDS_GATEWAY = (
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_OAUTH_TOKEN",
)


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """Where the model is, seen from the host.

    Attributes:
        url: The base URL.
        headers: What authenticates there; empty where nothing is needed.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


def model_endpoint(
    env: Mapping[str, str], *, model_url: str | None = None, api_key: str | None = None
) -> ModelEndpoint:
    """Where the model is, and the key for it.

    Without `model_url` it is what the CLI would find on this machine: `ANTHROPIC_BASE_URL`,
    `ANTHROPIC_API_KEY` and `ANTHROPIC_AUTH_TOKEN` in `env` or else in the environment. The
    environment's key is never sent to an explicit `model_url`.

    Args:
        env: `ClaudeAgentOptions.env`.
        model_url: The base URL of a Messages API.
        api_key: The key for it.

    Raises:
        AuthenticationError: There is no key, and the address is one that needs it.
        InvalidSpecError: The address is not a URL.
        UnsupportedError: The variables ask for a way to the model that is not there yet.
    """
    found = dict(env) if model_url is not None else {**os.environ, **env}
    for name in _NEEDS_GATEWAY:
        if found.get(name, "").lower() not in {"", "0", "false"}:
            raise UnsupportedError(
                f"{name} is set, and this way to the model is not supported yet: it would take "
                "a credential into the sandbox. Use an API key: ClaudeCode(api_key=...)."
            )
    url = (model_url or found.get("ANTHROPIC_BASE_URL") or DEFAULT_URL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise InvalidSpecError(
            "The address of the model must be like https://api.example.com, without a user or "
            f"password in it; its scheme is {parts.scheme!r} and its host {parts.hostname!r}."
        )
    if api_key or found.get("ANTHROPIC_API_KEY"):
        return ModelEndpoint(url, {"x-api-key": api_key or found["ANTHROPIC_API_KEY"]})
    if token := found.get("ANTHROPIC_AUTH_TOKEN"):
        return ModelEndpoint(url, {"authorization": f"Bearer {token}"})
    if url == DEFAULT_URL:
        raise AuthenticationError(
            "There is no key for the Anthropic API. Set ANTHROPIC_API_KEY in the environment, or "
            "give ClaudeCode(api_key=...); the key stays on this machine. Without an account, "
            "give the address of another model: ClaudeCode(model_url=...)."
        )
    return ModelEndpoint(url)


@contextlib.asynccontextmanager
async def model_route(sandbox: Sandbox, endpoint: ModelEndpoint) -> AsyncGenerator[dict[str, str]]:
    """Make the model reachable in the sandbox, whatever its network, for the block.

    Yields:
        The CLI's environment for it. Nothing in it is worth stealing: the token is good
        for this relay alone, and dies with it.
    """
    parts = urlsplit(endpoint.url)
    async with contextlib.AsyncExitStack() as stack:
        host, port, token = parts.hostname or "", parts.port or 80, "none-needed"
        if endpoint.headers or parts.scheme == "https":
            relay = await stack.enter_async_context(Relay(endpoint.url, endpoint.headers))
            host, port, token = "127.0.0.1", relay.port, relay.token
        address = await stack.enter_async_context(sandbox.ports.reverse(0, host, port))
        yield {
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{address.port}{parts.path}",
            "ANTHROPIC_API_KEY": token,
        }
