"""A client of the Messages API, for the tests of the scripted model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from sandboxkit.testing import ScriptedModel

Json = dict[str, Any]
HELLO: Json = {
    "model": "claude-test",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Hello"}],
}
STREAMED: Json = {**HELLO, "stream": True}


def client_of(model: ScriptedModel) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=model.url, trust_env=False, timeout=20)


async def ask(client: httpx.AsyncClient, **changes: object) -> httpx.Response:
    return await client.post("/v1/messages", json={**HELLO, **changes})


async def text_of(client: httpx.AsyncClient, **changes: object) -> str:
    response = await ask(client, **changes)
    assert response.status_code == 200, response.text
    return str(response.json()["content"][0]["text"])


async def events_of(response: httpx.Response) -> AsyncIterator[Json]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
