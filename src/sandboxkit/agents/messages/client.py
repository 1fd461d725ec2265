"""The `anthropic` package's client for a model endpoint of the gateway."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from sandboxkit.agents.events import Retry

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic.lib.bedrock import AsyncAnthropicBedrock
    from anthropic.lib.vertex import AsyncAnthropicVertex

    Client: TypeAlias = AsyncAnthropic | AsyncAnthropicBedrock | AsyncAnthropicVertex


class Attempts:
    """Hears of the SDK's own retries, each before it is sent.

    Attributes:
        tell: Called with each; None while nobody wants to know.
    """

    def __init__(self) -> None:
        self.tell: Callable[[Retry], None] | None = None
        self._status: int | None = None

    def hooks(self) -> dict[str, list[Callable[..., Any]]]:
        """For the HTTP client."""
        return {"request": [self._sent], "response": [self._answered]}

    async def _sent(self, request: Any) -> None:
        count = str(request.headers.get("x-stainless-retry-count", ""))
        if count.isdigit() and int(count) and self.tell is not None:
            self.tell(Retry(attempt=int(count), delay_s=None, status=self._status))
        self._status = None

    async def _answered(self, response: Any) -> None:
        self._status = response.status_code


def connect(
    environment: Mapping[str, str], token: str, *, max_retries: int, attempts: Attempts
) -> Client:
    """A client that speaks to the endpoint as its service is spoken to.

    Whatever the host's environment holds of keys and proxies, it is not used: the endpoint
    is on the loopback, and adds the key itself. Imports and reads files: not for the loop.

    Args:
        environment: What `ModelEndpoint.environment` says.
        token: The endpoint's.
        max_retries: How often the SDK asks again.
        attempts: Told of it.
    """
    import anthropic

    # Else with the first request, on the loop.
    import anthropic.lib.streaming  # pyright: ignore[reportUnusedImport]
    import anthropic.resources.messages  # pyright: ignore[reportUnusedImport]

    with contextlib.suppress(ImportError):
        import_module("opentelemetry.propagate")

    http = anthropic.DefaultAsyncHttpxClient(
        trust_env=False,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # trusts nobody: there is no TLS here
        follow_redirects=False,
        mounts={"all://127.0.0.1": None},  # the SDK's client looks for proxies all the same
        event_hooks=attempts.hooks(),
    )
    common: dict[str, Any] = {"max_retries": max_retries, "http_client": http}
    if "CLAUDE_CODE_USE_BEDROCK" in environment:
        from anthropic.lib.bedrock import AsyncAnthropicBedrock

        _load_bedrock_model()
        return AsyncAnthropicBedrock(
            api_key=token,
            aws_region=environment["AWS_REGION"],
            base_url=environment["ANTHROPIC_BEDROCK_BASE_URL"],
            **common,
        )
    if "CLAUDE_CODE_USE_VERTEX" in environment:
        from anthropic.lib.vertex import AsyncAnthropicVertex

        return AsyncAnthropicVertex(
            access_token=token,
            project_id=environment["ANTHROPIC_VERTEX_PROJECT_ID"],
            region=environment["CLOUD_ML_REGION"],
            base_url=environment["ANTHROPIC_VERTEX_BASE_URL"],
            **common,
        )
    # Foundry speaks the same API; its own client only adds other credentials.
    base = environment.get("ANTHROPIC_FOUNDRY_BASE_URL") or environment["ANTHROPIC_BASE_URL"]
    return anthropic.AsyncAnthropic(api_key=token, base_url=base, **common)


def _load_bedrock_model() -> None:
    """Read what the SDK would read with the first answer, on the loop: thousands of files.

    It keeps it. The name is private; where another SDK has none of it, the first answer of
    a process is slower.
    """
    decoder = import_module("anthropic.lib.bedrock._stream_decoder")
    load = getattr(decoder, "get_response_stream_shape", None)
    if load is not None:
        load()
