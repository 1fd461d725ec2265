"""A scripted model behind the protocols of the clouds, for the real CLI."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import unquote

import httpx

from sandboxkit.gateway.model.server import Answer, Request
from sandboxkit.testing import ScriptedModel
from tests.gateway.service import BedrockService, KeyedService, Service

_MODEL = re.compile(r"/models?/(?P<model>[^/:]+(?::\d)?)(?:/invoke|:)")


class _Scripted(Service):
    """Answers what a scripted model answers, in the words of the service."""

    script: ScriptedModel

    async def check(self, request: Request, answer: Answer) -> None:
        await super().check(request, answer)
        if answer.begun:
            return
        if request.method == "GET":
            await answer.whole(200, b'{"inferenceProfileSummaries": []}', _JSON)
        elif not self.streams(request):
            async with self._asked(request, stream=False) as response:
                await answer.whole(response.status_code, await response.aread(), _JSON)

    async def events(self, request: Request) -> AsyncGenerator[Mapping[str, Any]]:
        async with self._asked(request, stream=True) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def streams(self, request: Request) -> bool:
        return bool(json.loads(request.body).get("stream"))

    def _asked(self, request: Request, *, stream: bool) -> Any:
        body = json.loads(request.body)
        found = _MODEL.search(unquote(request.target))
        if found is not None:
            body = {**body, "model": found["model"]}
        body = {k: v for k, v in body.items() if k not in {"anthropic_version", "anthropic_beta"}}
        client = httpx.AsyncClient(trust_env=False, timeout=60)
        return _Closing(
            client,
            f"{self.script.url}/v1/messages",
            {**body, "stream": stream},
            {"user-agent": request.header("user-agent")},
        )


class _Closing:
    """One request, with a client of its own."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, body: Any, headers: dict[str, str]
    ) -> None:
        self._client = client
        self._stream = client.stream("POST", url, json=body, headers=headers)

    async def __aenter__(self) -> httpx.Response:
        return await self._stream.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        await self._stream.__aexit__(None, None, None)
        await self._client.aclose()


class ScriptedBedrock(_Scripted, BedrockService):
    def __init__(self, script: ScriptedModel, secrets: Mapping[str, str], region: str) -> None:
        super().__init__(secrets, region)
        self.script = script

    def streams(self, request: Request) -> bool:
        return request.target.endswith("invoke-with-response-stream")


class ScriptedMessages(_Scripted, KeyedService):
    """Vertex and Foundry, which both stream as the Messages API does."""

    def __init__(self, script: ScriptedModel, header: str, *keys: str) -> None:
        super().__init__(header, *keys)
        self.script = script


_JSON = {"content-type": "application/json"}
