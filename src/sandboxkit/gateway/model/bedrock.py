"""Claude on Amazon Bedrock: requests are signed on the host."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote, unquote, urlsplit

import anyio
import anyio.to_thread

from sandboxkit.errors import InvalidSpecError, ProviderNotInstalledError
from sandboxkit.gateway.model.anthropic import passed
from sandboxkit.gateway.model.bedrock_models import (
    BedrockModel,
    Endpoint,
    bedrock_id,
    known_models,
)
from sandboxkit.gateway.model.server import RefusedError, Request
from sandboxkit.gateway.model.upstream import Outgoing, Upstream

if TYPE_CHECKING:
    from botocore.credentials import Credentials, ReadOnlyCredentials

DEFAULT_REGION: Final = "us-east-1"

_INVOKE: Final = re.compile(
    r"/model/(?P<model>[^/]+)/(?P<how>invoke|invoke-with-response-stream|count-tokens)"
)
_PROFILES: Final = re.compile(r"/inference-profiles(\?[\w=&%.-]*)?")
_CREDENTIALS_S: Final = 30.0


@dataclass(frozen=True)
class Bedrock(Upstream):
    """Amazon Bedrock, with AWS's own chain of credentials (variables, profiles, roles).

    Args:
        region: Such as `eu-central-1`; None is `AWS_REGION`, else us-east-1.
        endpoint: `global` (Bedrock chooses where it runs, no premium) or `regional` (it
            stays in the region's geography, 10 % more).
        profile: A profile of `~/.aws/config`; None is the default chain.
        api_key: A key of Bedrock's own, sent as a bearer token instead of a signature. None,
            where neither a profile nor an address is given, is `AWS_BEARER_TOKEN_BEDROCK`.
        models: More rows for the table of models, by name; they win.
        base_url: The runtime's address, where it is not AWS's own.
    """

    region: str | None = None
    endpoint: Endpoint = "global"
    profile: str | None = None
    api_key: str | None = field(default=None, repr=False)
    models: Mapping[str, BedrockModel] = field(default_factory=dict[str, BedrockModel])
    base_url: str | None = None

    name: ClassVar[str] = "bedrock"
    price_provider: ClassVar[str] = "aws"

    @property
    def _region(self) -> str:
        return self.region or os.environ.get("AWS_REGION") or DEFAULT_REGION

    def check(self) -> None:
        """See `Upstream.check`. A role's credentials are only asked for with a request."""
        if self.endpoint not in {"global", "regional"}:
            raise InvalidSpecError(f"endpoint must be global or regional, not {self.endpoint!r}")
        if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", self._region):
            raise InvalidSpecError(f"{self._region!r} is not a region of AWS")
        if find_spec("botocore") is None:
            raise ProviderNotInstalledError(
                'Bedrock needs the package botocore: pip install "sandboxkit[bedrock]"'
            )
        known_models()

    def environment(self, base_url: str, token: str) -> dict[str, str]:  # noqa: ARG002
        """See `Upstream.environment`."""
        return {
            "CLAUDE_CODE_USE_BEDROCK": "1",
            "CLAUDE_CODE_SKIP_BEDROCK_AUTH": "1",
            "ANTHROPIC_BEDROCK_BASE_URL": base_url,
            "AWS_REGION": self._region,
        }

    def model_name(self, asked: str | None) -> str | None:
        """See `Upstream.model_name`."""
        if asked is None:
            return None
        table = {**known_models(), **self.models}
        return bedrock_id(asked, region=self._region, endpoint=self.endpoint, models=table)

    def model_of(self, request: Request, body: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """See `Upstream.model_of`."""
        match = _INVOKE.fullmatch(request.target)
        if match is not None and request.method == "POST":
            try:
                return self.model_name(unquote(match["model"]))
            except InvalidSpecError as error:
                raise RefusedError(
                    HTTPStatus.BAD_REQUEST, "invalid_request_error", error.message
                ) from error
        if request.method == "GET" and _PROFILES.fullmatch(request.target):
            return None
        raise RefusedError(
            HTTPStatus.FORBIDDEN,
            "permission_error",
            "Only Claude's models on Bedrock can be reached from here.",
        )

    async def outgoing(self, request: Request, body: bytes) -> Outgoing:
        """See `Upstream.outgoing`."""
        match = _INVOKE.fullmatch(request.target)
        target, runtime = request.target, match is not None
        if match is not None:
            model = self.model_name(unquote(match["model"])) or ""
            target = f"/model/{quote(model, safe='')}/{match['how']}"
        host = f"bedrock{'-runtime' if runtime else ''}.{self._region}.amazonaws.com"
        base = (self.base_url or f"https://{host}").rstrip("/")
        unsigned = Outgoing(f"{base}{target}", passed(request), body)
        if key := self._key():
            return replace(unsigned, headers={**unsigned.headers, "authorization": f"Bearer {key}"})
        credentials = await self._credentials_now()
        return _signed(unsigned, request.method, credentials, self._region)

    def _key(self) -> str | None:
        if self.api_key is None and self.profile is None and self.base_url is None:
            return os.environ.get("AWS_BEARER_TOKEN_BEDROCK")
        return self.api_key

    async def _credentials_now(self) -> ReadOnlyCredentials:
        """They may have to be fetched or refreshed, which blocks."""

        def read() -> ReadOnlyCredentials | None:
            found = self._chain
            return None if found is None else found.get_frozen_credentials()

        from botocore.exceptions import BotoCoreError

        try:
            with anyio.fail_after(_CREDENTIALS_S):
                credentials = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
        except (BotoCoreError, TimeoutError) as error:
            said = f"AWS's credentials could not be had: {type(error).__name__}."
            raise _no_credentials(said) from error
        if credentials is None:
            raise _no_credentials(
                "There are no AWS credentials on the host: set AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        return credentials

    @cached_property
    def _chain(self) -> Credentials | None:
        from botocore.session import Session

        return Session(profile=self.profile).get_credentials()


def _no_credentials(message: str) -> RefusedError:
    return RefusedError(HTTPStatus.UNAUTHORIZED, "authentication_error", message)


def _signed(out: Outgoing, method: str, credentials: ReadOnlyCredentials, region: str) -> Outgoing:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    headers = {**out.headers, "host": urlsplit(out.url).netloc}
    request = AWSRequest(method=method, url=out.url, data=out.body, headers=headers)
    SigV4Auth(credentials, "bedrock", region).add_auth(request)
    return replace(out, headers=dict(request.headers.items()))
