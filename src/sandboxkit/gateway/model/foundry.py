"""Claude on Microsoft Foundry: the Messages API, with Azure's credentials added on the host."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, Final

import anyio
import anyio.to_thread

from sandboxkit.errors import AuthenticationError, InvalidSpecError
from sandboxkit.gateway.model.anthropic import checked_url, messages_model, passed
from sandboxkit.gateway.model.server import RefusedError, Request
from sandboxkit.gateway.model.upstream import Outgoing, Upstream

_TOKEN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Foundry(Upstream):
    """Microsoft Foundry, by the rules of `AnthropicFoundry` in the `anthropic` package.

    Args:
        resource: The name of the Foundry resource; None is `ANTHROPIC_FOUNDRY_RESOURCE`.
        base_url: The service's address instead, such as that of a proxy of your own; None,
            where no resource is given either, is `ANTHROPIC_FOUNDRY_BASE_URL`.
        api_key: Sent as `x-api-key` and `api-key`. None, where no token provider is given,
            is `ANTHROPIC_FOUNDRY_API_KEY`; but never to a `base_url` that is given here.
        token_provider: Gives a token of Microsoft Entra ID, and is asked with each request:
            `azure.identity.get_bearer_token_provider(...)`, which may block, or an async one.
    """

    resource: str | None = None
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    token_provider: Callable[[], str | Awaitable[str]] | None = field(default=None, repr=False)

    name: ClassVar[str] = "foundry"
    price_provider: ClassVar[str] = "azure"

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end; empty where none is known."""
        resource, base = self.resource, self.base_url
        if resource is None and base is None:
            resource = os.environ.get("ANTHROPIC_FOUNDRY_RESOURCE")
            base = os.environ.get("ANTHROPIC_FOUNDRY_BASE_URL")
        if base:
            return base.rstrip("/")
        return f"https://{resource}.services.ai.azure.com/anthropic" if resource else ""

    def check(self) -> None:
        """See `Upstream.check`; a token provider is only asked with a request."""
        if self.resource is not None and self.base_url is not None:
            raise InvalidSpecError("Foundry: give either resource or base_url, not both")
        if self.resource is not None and not re.fullmatch(
            r"[A-Za-z0-9][A-Za-z0-9-]{0,62}[A-Za-z0-9]", self.resource
        ):
            raise InvalidSpecError(f"{self.resource!r} is not the name of a Foundry resource")
        if not self.url:
            raise InvalidSpecError(
                "Foundry needs a resource: Foundry(resource=...), or ANTHROPIC_FOUNDRY_RESOURCE."
            )
        checked_url(self.url)
        if self.token_provider is None and self._key() is None and self.base_url is None:
            raise AuthenticationError(
                "There is no key for Microsoft Foundry. Set ANTHROPIC_FOUNDRY_API_KEY in the "
                "environment, or give Foundry(api_key=...) or Foundry(token_provider=...); it "
                "stays on this machine."
            )

    def _key(self) -> str | None:
        if self.api_key is None and self.base_url is None:
            return os.environ.get("ANTHROPIC_FOUNDRY_API_KEY") or None
        return self.api_key

    def environment(self, base_url: str, token: str) -> dict[str, str]:  # noqa: ARG002
        """See `Upstream.environment`."""
        return {
            "CLAUDE_CODE_USE_FOUNDRY": "1",
            "CLAUDE_CODE_SKIP_FOUNDRY_AUTH": "1",
            "ANTHROPIC_FOUNDRY_BASE_URL": base_url,
        }

    def model_of(self, request: Request, body: Mapping[str, Any]) -> str | None:
        """See `Upstream.model_of`."""
        return messages_model(request, body)

    async def outgoing(self, request: Request, body: bytes) -> Outgoing:
        """See `Upstream.outgoing`."""
        headers = {**passed(request), **await self._credential()}
        return Outgoing(self.url + request.target, headers, body)

    async def _credential(self) -> dict[str, str]:
        provider = self.token_provider
        if provider is None:
            key = self._key()
            return {"x-api-key": key, "api-key": key} if key else {}
        try:
            with anyio.fail_after(_TOKEN_S):
                given = await anyio.to_thread.run_sync(provider, abandon_on_cancel=True)
                token = await given if inspect.isawaitable(given) else given
        except Exception as error:  # whatever it raises is the user's own
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "authentication_error",
                f"The host has no token for Microsoft Foundry: {type(error).__name__}.",
            ) from error
        return {"authorization": f"Bearer {token}"}
