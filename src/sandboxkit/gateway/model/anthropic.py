"""The Anthropic API, or whatever speaks as it does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from sandboxkit.errors import AuthenticationError, InvalidSpecError
from sandboxkit.gateway.model.server import RefusedError, Request
from sandboxkit.gateway.model.upstream import Outgoing, Upstream

DEFAULT_URL: Final = "https://api.anthropic.com"

_PATHS = re.compile(r"/?|/v1/messages|/v1/messages/count_tokens|/v1/models(/[\w.:-]+)?")
# What travels: everything else is the sandbox's own business, or a credential.
_PASSED: Final = re.compile(r"anthropic-.*|content-type|accept|user-agent|x-stainless-.*|x-app")


@dataclass(frozen=True, slots=True)
class Anthropic(Upstream):
    """The Messages API.

    Args:
        api_key: Sent as `x-api-key`. None, with `auth_token` None as well, is what the
            environment has: `ANTHROPIC_API_KEY`, else `ANTHROPIC_AUTH_TOKEN`; but never to
            a `base_url` that is given here.
        auth_token: Sent as a bearer token instead.
        base_url: Where it is; None is `ANTHROPIC_BASE_URL`, else the Anthropic API.
    """

    api_key: str | None = field(default=None, repr=False)
    auth_token: str | None = field(default=None, repr=False)
    base_url: str | None = None

    name: ClassVar[str] = "anthropic"
    price_provider: ClassVar[str] = "anthropic"

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return (self.base_url or os.environ.get("ANTHROPIC_BASE_URL") or DEFAULT_URL).rstrip("/")

    def check(self) -> None:
        """See `Upstream.check`. An address that is not Anthropic's may need no key."""
        checked_url(self.url)
        if not self._credential() and self.url == DEFAULT_URL:
            raise AuthenticationError(
                "There is no key for the Anthropic API. Set ANTHROPIC_API_KEY in the environment, "
                "or give Anthropic(api_key=...); the key stays on this machine."
            )

    def _credential(self) -> dict[str, str]:
        key, token = self.api_key, self.auth_token
        if key is None and token is None and self.base_url is None:
            key = os.environ.get("ANTHROPIC_API_KEY")
            token = os.environ.get("ANTHROPIC_AUTH_TOKEN")
        if key:
            return {"x-api-key": key}
        return {"authorization": f"Bearer {token}"} if token else {}

    def environment(self, base_url: str, token: str) -> dict[str, str]:
        """See `Upstream.environment`."""
        return {"ANTHROPIC_BASE_URL": base_url, "ANTHROPIC_API_KEY": token}

    def model_of(self, request: Request, body: Mapping[str, Any]) -> str | None:
        """See `Upstream.model_of`."""
        return messages_model(request, body)

    async def outgoing(self, request: Request, body: bytes) -> Outgoing:
        """See `Upstream.outgoing`."""
        return Outgoing(self.url + request.target, {**passed(request), **self._credential()}, body)


def passed(request: Request) -> dict[str, str]:
    """The headers that go on; compressed answers could not be metered."""
    kept = {name: value for name, value in request.headers if _PASSED.fullmatch(name)}
    return {**kept, "accept-encoding": "identity"}


def checked_url(url: str) -> None:
    """See that it can be the address of a service.

    Raises:
        InvalidSpecError: It cannot; what it is stays out of the message, as far as it is secret.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise InvalidSpecError(
            "The address of the model must be like https://api.example.com, without a user "
            f"or password in it; its scheme is {parts.scheme!r} and its host {parts.hostname!r}."
        )


def messages_model(request: Request, body: Mapping[str, Any]) -> str | None:
    """The model that a request to the Messages API asks for.

    Raises:
        RefusedError: It is a request to something else.
    """
    path = request.target.partition("?")[0]
    if not _PATHS.fullmatch(path) or request.method not in {"GET", "HEAD", "POST"}:
        raise RefusedError(
            HTTPStatus.FORBIDDEN,
            "permission_error",
            "Only the Messages API can be reached from here.",
        )
    model = body.get("model")
    return model if isinstance(model, str) else None
