"""The way to the model: what passes, what is added, what is counted, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sandboxkit.errors import AuthenticationError, InvalidSpecError
from sandboxkit.gateway.model import server
from sandboxkit.gateway.model.account import Account
from sandboxkit.gateway.model.anthropic import Anthropic
from sandboxkit.gateway.model.budget import Budget
from sandboxkit.gateway.model.endpoint import ModelEndpoint
from sandboxkit.gateway.model.meter import Meter, Price
from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, fail, say
from sandboxkit.usage import Usage
from tests.gateway.service import KeyedService, Service

MODEL = "claude-sonnet-4-5"
BODY: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}


@asynccontextmanager
async def endpoint(model: ScriptedModel, **options: Any) -> AsyncGenerator[ModelEndpoint]:
    upstream = Anthropic(api_key="the-real-key", base_url=model.url)
    web = options.pop("web", False)
    async with ModelEndpoint(upstream, Account(**options), web=web) as served:
        yield served


@asynccontextmanager
async def inside(
    served: ModelEndpoint, token: str | None = None
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client as the sandbox has it."""
    env = served.environment("127.0.0.1", served.port)
    headers = {"x-api-key": token if token is not None else env["ANTHROPIC_API_KEY"]}
    base = env["ANTHROPIC_BASE_URL"] if token is None else f"http://127.0.0.1:{served.port}"
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client:
        yield client


async def test_a_stream_passes_byte_by_byte_and_is_metered() -> None:
    reply = Reply([say("Hello there.")], input_tokens=10, output_tokens=7, cache_read_tokens=30)
    direct = Reply([say("Hello there.")], input_tokens=10, output_tokens=7, cache_read_tokens=30)
    async with ScriptedModel([reply, direct]) as model, endpoint(model) as served:
        async with inside(served) as client:
            through = await client.post("/v1/messages", json={**BODY, "stream": True})
        async with httpx.AsyncClient(trust_env=False) as client:
            beside = await client.post(
                f"{model.url}/v1/messages",
                json={**BODY, "stream": True},
                headers={"x-api-key": "the-real-key"},
            )
        assert through.status_code == 200
        assert through.headers["content-type"] == beside.headers["content-type"]
        assert [kind_of(line) for line in through.text.splitlines()] == [
            kind_of(line) for line in beside.text.splitlines()
        ]
        assert text_of(through) == "Hello there."
        (call,) = served.account.meter.calls
    assert (call.model, call.status, call.complete, call.refused) == (MODEL, 200, True, None)
    assert call.usage == Usage(10, 7, cache_read_tokens=30)
    assert call.cost_usd == pytest.approx((10 * 3 + 30 * 0.3 + 7 * 15) / 1e6)
    assert call.first_byte_s is not None
    assert call.first_token_s is not None
    assert 0 < call.first_byte_s <= call.first_token_s <= call.total_s


def text_of(answer: httpx.Response) -> str:
    events = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data")]
    return "".join(event.get("delta", {}).get("text", "") for event in events)


def kind_of(line: str) -> str:
    """A line of a stream without what differs from answer to answer."""
    return line.partition(":")[0] if line.startswith("data") else line


async def test_an_answer_in_one_piece_is_metered_too() -> None:
    async with ScriptedModel([Reply([say("Hi.")], input_tokens=5, output_tokens=2)]) as model:
        async with endpoint(model) as served, inside(served) as client:
            answer = await client.post("/v1/messages", json=BODY)
            assert answer.json()["content"][0]["text"] == "Hi."
            (call,) = served.account.meter.calls
    assert call.usage == Usage(5, 2)
    assert call.complete


async def test_the_key_is_added_outside_and_the_token_stays_here() -> None:
    upstream = Anthropic(api_key="the-real-key")
    async with Service() as service:
        upstream = replace(upstream, base_url=service.url)
        async with ModelEndpoint(upstream) as served, inside(served) as client:
            headers = {"cookie": "a=b", "x-evil": "1", "anthropic-beta": "context-1m-2025-08-07"}
            await client.post("/v1/messages?beta=true", json=BODY, headers=headers)
        (request,) = service.requests
    sent = dict(request.headers)
    assert request.target == "/v1/messages?beta=true"
    assert sent["x-api-key"] == "the-real-key"
    assert sent["anthropic-beta"] == "context-1m-2025-08-07"
    assert served.token not in str(request)
    assert not {"cookie", "x-evil", "authorization"} & sent.keys()
    assert "the-real-key" not in repr(served) + repr(upstream)
    assert "the-real-key" not in str(served.environment("127.0.0.1", served.port))


async def test_a_bearer_token_goes_to_a_base_url_with_a_path() -> None:
    async with KeyedService("authorization", "Bearer the-real-token") as service:
        upstream = Anthropic(auth_token="the-real-token", base_url=f"{service.url}/a/proxy/")
        async with ModelEndpoint(upstream) as served, inside(served) as client:
            assert (await client.post("/v1/messages", json=BODY)).status_code == 200
    (request,) = service.requests
    assert request.target == "/a/proxy/v1/messages"
    assert not request.header("x-api-key")
    assert "the-real-token" not in repr(upstream)


async def test_the_environments_key_and_address_go_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with KeyedService("x-api-key", "of-the-environment") as service:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", service.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "of-the-environment")
        async with ModelEndpoint(Anthropic()) as served, inside(served) as client:
            assert (await client.post("/v1/messages", json=BODY)).status_code == 200


async def test_a_client_that_hangs_up_stops_the_model() -> None:
    async with Service() as service:
        service.stalls = True
        upstream = Anthropic(api_key="k", base_url=service.url)
        async with ModelEndpoint(upstream) as served, inside(served) as client:
            async with client.stream("POST", "/v1/messages", json=BODY) as answer:
                await anext(answer.aiter_raw())
            async with asyncio.timeout(20):
                await service.hung_up.wait()
                while not served.account.meter.calls:
                    await asyncio.sleep(0.01)
    (call,) = served.account.meter.calls
    assert (call.complete, call.usage) == (False, Usage(12, 1))


async def test_a_service_that_breaks_off_is_not_taken_for_an_end() -> None:
    async with Service() as service:
        service.stalls = True
        upstream = Anthropic(api_key="k", base_url=service.url)
        async with ModelEndpoint(upstream) as served, inside(served) as client:
            async with client.stream("POST", "/v1/messages", json=BODY) as answer:
                pieces = answer.aiter_raw()
                await anext(pieces)
                await service.stop()
                with pytest.raises(httpx.RemoteProtocolError):
                    await anext(pieces)


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + bytes(600),
    ],
    ids=["garbage", "two lengths", "a negative length", "a huge header", "TLS"],
)
async def test_what_is_not_http_is_refused(sent: bytes) -> None:
    async with Service() as service:
        async with ModelEndpoint(Anthropic(api_key="k", base_url=service.url)) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(sent)
            async with asyncio.timeout(20):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 4")
            writer.close()
        assert service.requests == []


async def test_a_flood_of_connections_is_bounded_and_leaves_others_alone() -> None:
    async with Service() as service:
        upstream = Anthropic(api_key="k", base_url=service.url)
        async with ModelEndpoint(upstream) as flooded, ModelEndpoint(upstream) as quiet:
            opened = [await asyncio.open_connection("127.0.0.1", flooded.port) for _ in range(300)]
            async with inside(quiet) as client:
                answer = await client.post("/v1/messages", json=BODY)
                assert answer.status_code == 200
            async with asyncio.timeout(20):  # those beyond the bound are cut
                while sum(reader.at_eof() for reader, _ in opened) < 200:
                    await asyncio.gather(*(peek(reader) for reader, _ in opened))
            for _, writer in opened:
                writer.close()


async def test_what_a_sandbox_can_make_the_host_hold_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MAX_HELD", 1_000_000)
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n"
    async with Service() as service:
        async with ModelEndpoint(Anthropic(api_key="k", base_url=service.url)) as served:
            _, half = await asyncio.open_connection("127.0.0.1", served.port)
            half.write(head + bytes(800_000))  # and no more
            await half.drain()
            body = {**BODY, "metadata": {"user_id": "x" * 900_000}}
            async with inside(served) as client, asyncio.timeout(20):
                # Until the server has read it, and again until it has seen that it is gone.
                while await status(client, body) != 503:
                    await asyncio.sleep(0.01)
                half.close()
                while await status(client, body) != 200:
                    await asyncio.sleep(0.01)


async def status(client: httpx.AsyncClient, body: dict[str, Any]) -> int:
    """0 where the connection was cut in the middle of the request."""
    try:
        return (await client.post("/v1/messages", json=body)).status_code
    except httpx.TransportError:
        return 0


async def peek(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(1), 0.01)


@pytest.mark.parametrize("token", ["", "wrong", "sandboxkit-wrong", "the-real-key"])
async def test_another_token_is_refused(token: str) -> None:
    async with ScriptedModel([say("Hi.")]) as model, endpoint(model) as served:
        async with inside(served, token) as client:
            answer = await client.post("/v1/messages", json=BODY)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert model.requests == []


async def test_the_token_dies_with_the_session() -> None:
    async with ScriptedModel([say("Hi.")]) as model:
        async with endpoint(model) as first:
            old = first.token
        async with endpoint(model) as second, inside(second, old) as client:
            assert (await client.post("/v1/messages", json=BODY)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/files"),
        ("GET", "/v1/organizations"),
        ("POST", "/v1/messages/../files"),
        ("DELETE", "/v1/messages"),
        ("POST", "/v1/messages/batches"),
        ("POST", "//v1/messages"),
    ],
)
async def test_nothing_but_the_messages_api_passes(method: str, path: str) -> None:
    async with ScriptedModel([]) as model, endpoint(model) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        start = f"{method} /{served.token}{path} HTTP/1.1\r\n"
        writer.write(f"{start}host: x\r\ncontent-length: 0\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
        writer.close()
        assert model.requests == []


async def test_an_error_of_the_service_passes_as_it_is() -> None:
    async with ScriptedModel([fail(529, "overloaded_error")]) as model:
        async with endpoint(model) as served, inside(served) as client:
            answer = await client.post("/v1/messages", json=BODY)
            assert answer.status_code == 529
            assert answer.json()["error"]["type"] == "overloaded_error"
            assert (served.account.meter.total.requests, served.account.meter.total.failed) == (
                1,
                1,
            )


async def test_a_service_that_is_not_there() -> None:
    async with ScriptedModel([]) as model:
        url = model.url
    async with ModelEndpoint(Anthropic(api_key="k", base_url=url)) as served:
        async with inside(served) as client:
            answer = await client.post("/v1/messages", json=BODY)
        assert answer.status_code == 502
        assert "cannot be reached from the host" in answer.json()["error"]["message"]
        assert served.account.meter.calls[0].refused is not None


async def test_a_budget_stops_the_request_after_it_is_spent() -> None:
    budget = Budget(tokens=20)
    replies = [Reply([say("Hi.")], input_tokens=15, output_tokens=6) for _ in range(2)]
    async with ScriptedModel(replies) as model, endpoint(model, budgets=(budget,)) as served:
        async with inside(served) as client:
            assert (await client.post("/v1/messages", json=BODY)).status_code == 200
            refused = await client.post("/v1/messages", json=BODY)
            assert refused.status_code == 402
            assert refused.json()["error"]["type"] == "budget_exceeded"
            assert refused.headers["x-should-retry"] == "false"
            assert len(model.requests) == 1
            budget.allow(tokens=100)
            assert (await client.post("/v1/messages", json=BODY)).status_code == 200
    assert budget.spent["tokens"] == 42
    assert served.account.meter.total.requests == 2


async def test_a_budget_is_shared() -> None:
    budget = Budget(requests=1)
    async with ScriptedModel([say("Hi.")]) as model:
        async with endpoint(model, budgets=(budget,)) as one, inside(one) as client:
            assert (await client.post("/v1/messages", json=BODY)).status_code == 200
        async with endpoint(model, budgets=(budget,)) as two, inside(two) as client:
            assert (await client.post("/v1/messages", json=BODY)).status_code == 402


async def test_two_sessions_cannot_both_pass_the_last_token() -> None:
    budget, first_is_there, go = Budget(tokens=100), asyncio.Event(), asyncio.Event()

    async def step(request: ModelRequest) -> Reply:
        first_is_there.set()
        await go.wait()
        return Reply([say("Hi.")], input_tokens=90, output_tokens=20)

    async with ScriptedModel(step) as model:
        async with (
            endpoint(model, budgets=(budget,)) as one,
            endpoint(model, budgets=(budget,)) as two,
            inside(one) as mine,
            inside(two) as yours,
        ):
            first = asyncio.ensure_future(mine.post("/v1/messages", json=BODY))
            await first_is_there.wait()
            second = asyncio.ensure_future(yours.post("/v1/messages", json=BODY))
            third = asyncio.ensure_future(yours.post("/v1/messages", json=BODY))
            while budget.waiting < 2:
                await asyncio.sleep(0.01)
            third.cancel()  # a client that does not want to wait
            await asyncio.wait({third})
            while budget.waiting > 1:
                await asyncio.sleep(0.01)
            go.set()
            assert (await first).status_code == 200
            assert (await second).status_code == 402
            await two.settled()
    assert len(model.requests) == 1
    assert budget.spent["tokens"] == 110
    assert budget.spent["requests"] == 1
    assert two.account.meter.total.requests == 0
    assert [call.over_budget is None for call in two.account.meter.calls] == [True, False]


async def test_counting_tokens_waits_for_nobody() -> None:
    budget, asked, go = Budget(tokens=100), asyncio.Event(), asyncio.Event()

    async def step(request: ModelRequest) -> Reply:
        asked.set()
        await go.wait()
        return Reply([say("Hi.")], input_tokens=1, output_tokens=1)

    async with ScriptedModel(step) as model, endpoint(model, budgets=(budget,)) as served:
        async with inside(served) as client:
            first = asyncio.ensure_future(client.post("/v1/messages", json=BODY))
            await asked.wait()
            counted = await client.post("/v1/messages/count_tokens", json=BODY)
            assert counted.status_code == 200
            go.set()
            assert (await first).status_code == 200


async def test_dollars_need_a_price() -> None:
    body = {**BODY, "model": "a-model-of-ours"}
    async with ScriptedModel([say("Hi.")]) as model:
        async with endpoint(model, budgets=(Budget(usd=1),)) as served, inside(served) as client:
            answer = await client.post("/v1/messages", json=body)
            assert "price of this model is not known" in answer.json()["error"]["message"]
        meter = Meter({"a-model-of-ours": Price(1.0, 2.0)})
        async with endpoint(model, budgets=(Budget(usd=1),), meter=meter) as served:
            async with inside(served) as client:
                assert (await client.post("/v1/messages", json=body)).status_code == 200
    assert meter.total.cost_usd


async def test_what_the_cache_keeps_for_an_hour_costs_more() -> None:
    """1.25 times the price of what is read for five minutes, and twice for an hour."""
    step = Reply(
        [say("Hi.")],
        input_tokens=0,
        output_tokens=0,
        cache_creation_tokens=1000,
        cache_creation_1h_tokens=600,
    )
    for prices in ({}, {"*": Price(1.0, 5.0)}, {"*": Price(1.0, 5.0, None, 3.0, 9.0)}):
        async with ScriptedModel([step, step]) as model:
            async with endpoint(model, meter=Meter(prices)) as served, inside(served) as client:
                for stream in (True, False):
                    body = {**BODY, "model": "claude-haiku-4-5", "stream": stream}
                    assert (await client.post("/v1/messages", json=body)).status_code == 200
                await served.settled()
        five, hour = (3.0, 9.0) if prices and prices["*"].cache_creation_usd else (1.25, 2.0)
        for call in served.account.meter.calls:
            assert call.usage == Usage(0, 0, 0, 1000, 600)
            assert call.cost_usd == pytest.approx((400 * five + 600 * hour) / 1e6)


@pytest.mark.parametrize(("ttl", "at_once"), [("5m", 2), ("1h", 1)])
async def test_what_is_to_be_kept_for_an_hour_reserves_its_price(ttl: str, at_once: int) -> None:
    """3,000 bytes are at most some 1,050 tokens: 1,300 millionths of a dollar, or 2,100."""
    cached = {"type": "ephemeral", "ttl": ttl}
    text = {"type": "text", "text": "x" * 3000, "cache_control": cached}
    body = {**BODY, "max_tokens": 1, "messages": [{"role": "user", "content": [text]}]}
    budget, meter, go = Budget(usd=3000 / 1e6), Meter({"*": Price(1.0, 1.0)}), asyncio.Event()

    async def step(request: ModelRequest) -> Reply:
        await go.wait()
        return Reply([say("Hi.")], input_tokens=1, output_tokens=1)

    async with ScriptedModel(step) as model, endpoint(model, budgets=(budget,), meter=meter) as one:
        async with inside(one) as client:
            asking = [asyncio.ensure_future(client.post("/v1/messages", json=body)) for _ in "12"]
            async with asyncio.timeout(20):
                while len(model.requests) + budget.waiting < 2:
                    await asyncio.sleep(0.01)
            assert len(model.requests) == at_once
            go.set()
            assert [(await each).status_code for each in asking] == [200, 200]


async def test_an_unknown_price_is_not_zero() -> None:
    async with ScriptedModel([Reply([say("Hi.")], input_tokens=5, output_tokens=2)]) as model:
        async with endpoint(model) as served, inside(served) as client:
            await client.post("/v1/messages", json={**BODY, "model": "a-model-of-ours"})
    assert served.account.meter.calls[0].cost_usd is None
    assert served.account.meter.total.unpriced == 1
    assert served.account.meter.total.cost_usd is None
    assert served.account.meter.by_model["a-model-of-ours"].usage == Usage(5, 2)


async def test_only_the_models_that_are_allowed() -> None:
    async with ScriptedModel([say("Hi.")]) as model:
        async with endpoint(model, models=("claude-haiku-*",)) as served, inside(served) as client:
            answer = await client.post("/v1/messages", json=BODY)
            assert answer.status_code == 403
            assert "claude-haiku-*" in answer.json()["error"]["message"]
            fine = {**BODY, "model": "claude-haiku-4-5"}
            assert (await client.post("/v1/messages", json=fine)).status_code == 200


async def test_tools_that_reach_the_web_are_withheld() -> None:
    tools = [
        {"type": "web_search_20250305", "name": "web_search"},
        {"name": "mine", "input_schema": {"type": "object"}},
    ]
    async with ScriptedModel([say("Hi."), say("Hi.")]) as model, endpoint(model) as served:
        async with inside(served) as client:
            servers = [{"type": "url", "url": "https://mcp.example.com", "name": "x"}]
            body = {**BODY, "tools": tools, "mcp_servers": servers}
            assert (await client.post("/v1/messages", json=body)).status_code == 200
            only = await client.post("/v1/messages", json={**BODY, "tools": tools[:1]})
            assert only.status_code == 403
            assert "network policy" in only.json()["error"]["message"]
        assert model.requests[0].body["tools"] == tools[1:]
        assert "mcp_servers" not in model.requests[0].body
        async with endpoint(model, web=True) as open_one, inside(open_one) as client:
            assert (await client.post("/v1/messages", json=body)).status_code == 200
        assert model.requests[1].body["tools"] == tools


async def test_without_a_key_there_is_no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AuthenticationError, match="ANTHROPIC_API_KEY"):
        async with ModelEndpoint(Anthropic()):
            pass
    with pytest.raises(InvalidSpecError, match="scheme"):
        async with ModelEndpoint(Anthropic(base_url="ftp://x")):
            pass


async def test_the_environments_key_is_not_sent_to_a_given_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-users-own")
    async with Service() as service:
        upstream = Anthropic(base_url=service.url)
        async with ModelEndpoint(upstream) as served, inside(served) as client:
            await client.post("/v1/messages", json=BODY)
    assert "the-users-own" not in str(service.requests[0])
