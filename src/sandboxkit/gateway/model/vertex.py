"""Claude on Google Cloud's Vertex AI: the access token is added on the host."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Final

import anyio
import anyio.to_thread

from sandboxkit.errors import InvalidSpecError, ProviderNotInstalledError
from sandboxkit.gateway.model.anthropic import passed
from sandboxkit.gateway.model.server import RefusedError, Request
from sandboxkit.gateway.model.upstream import Outgoing, Upstream

_PATH: Final = re.compile(
    r"/projects/(?P<project>[\w.:-]+)/locations/(?P<region>[\w-]+)/publishers/anthropic/models/"
    r"(?P<model>[\w.@-]+):(rawPredict|streamRawPredict|countTokens)"
)
_DATED: Final = re.compile(r"-(\d{8})$")
_GEOGRAPHIES: Final = frozenset({"us", "eu"})
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_S: Final = 30.0


@dataclass(frozen=True)
class Vertex(Upstream):
    """Vertex AI, with Google's application default credentials.

    Args:
        project: The project's id; None is `ANTHROPIC_VERTEX_PROJECT_ID`.
        region: Such as `europe-west1`, or `us`, `eu`, `global`; None is `CLOUD_ML_REGION`.
        base_url: The service's address, where it is not Google's own.
        credentials: A `google.auth.credentials.Credentials`; None is the default chain.
            What has expired is refreshed on the host, also in the middle of a session.
    """

    project: str | None = None
    region: str | None = None
    base_url: str | None = None
    credentials: Any = field(default=None, repr=False, compare=False)  # google.auth has no types

    _lock: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    name: ClassVar[str] = "vertex"
    price_provider: ClassVar[str] = "google"

    @property
    def _project(self) -> str:
        return self.project or os.environ.get("ANTHROPIC_VERTEX_PROJECT_ID", "")

    @property
    def _region(self) -> str:
        return self.region or os.environ.get("CLOUD_ML_REGION", "")

    def check(self) -> None:
        """See `Upstream.check`; the token itself is only asked for with a request."""
        for what, value in (("project", self._project), ("region", self._region)):
            if not re.fullmatch(r"[\w.:-]+", value):
                raise InvalidSpecError(f"Vertex(project=, region=): {what} is {value!r}")
        if find_spec("google") is None or find_spec("google.auth") is None:
            raise ProviderNotInstalledError(
                'Vertex needs the package google-auth: pip install "sandboxkit[vertex]"'
            )

    def environment(self, base_url: str, token: str) -> dict[str, str]:  # noqa: ARG002
        """See `Upstream.environment`."""
        return {
            "CLAUDE_CODE_USE_VERTEX": "1",
            "CLAUDE_CODE_SKIP_VERTEX_AUTH": "1",
            "ANTHROPIC_VERTEX_BASE_URL": base_url,
            "ANTHROPIC_VERTEX_PROJECT_ID": self._project,
            "CLOUD_ML_REGION": self._region,
        }

    def model_name(self, asked: str | None) -> str | None:
        """See `Upstream.model_name`: Vertex writes a date after an `@`."""
        return None if asked is None else _DATED.sub(r"@\1", asked)

    def model_of(self, request: Request, body: Mapping[str, Any]) -> str | None:
        """See `Upstream.model_of`. Where tokens are counted, the body names the model."""
        match = _PATH.fullmatch(request.target.partition("?")[0])
        mine = match is not None and (match["project"], match["region"]) == (
            self._project,
            self._region,
        )
        if match is None or not mine or request.method != "POST":
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "permission_error",
                f"Only Claude's models of {self._project} in {self._region} can be reached.",
            )
        asked = body.get("model")
        if match["model"] == "count-tokens" and isinstance(asked, str):
            return asked
        return match["model"]

    async def outgoing(self, request: Request, body: bytes) -> Outgoing:
        """See `Upstream.outgoing`."""
        base = (self.base_url or f"https://{_host(self._region)}/v1").rstrip("/")
        from google.auth.exceptions import GoogleAuthError

        try:
            with anyio.fail_after(_TOKEN_S):
                token = await anyio.to_thread.run_sync(self._token, abandon_on_cancel=True)
        except (GoogleAuthError, TimeoutError) as error:
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "authentication_error",
                "There are no Google credentials on the host: run `gcloud auth "
                "application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS.",
            ) from error
        headers = {**passed(request), "authorization": f"Bearer {token}"}
        return Outgoing(f"{base}{request.target}", headers, body)

    def _token(self) -> str:
        """A token that is valid; asks Google when it has none. Blocks."""
        from google.auth.transport.requests import Request as Transport

        credentials = self._credentials
        with self._lock:  # several requests may find that it has expired
            if not credentials.valid:
                credentials.refresh(Transport())
            return str(credentials.token)

    @cached_property
    def _credentials(self) -> Any:
        if self.credentials is not None:
            return self.credentials
        auth: Any = import_module("google.auth")
        return auth.default(scopes=[_SCOPE])[0]


def _host(region: str) -> str:
    """By the rules of `AnthropicVertex` in the `anthropic` package."""
    if region == "global":
        return "aiplatform.googleapis.com"
    if region in _GEOGRAPHIES:
        return f"aiplatform.{region}.rep.googleapis.com"
    return f"{region}-aiplatform.googleapis.com"
