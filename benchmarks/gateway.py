"""What the gateway adds to the time until the first token."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
from claude_agent_sdk import ClaudeSDKClient, ResultMessage, StreamEvent

from benchmarks.agent import inside, local
from benchmarks.measure import Row, Samples
from sandboxkit.gateway.model.anthropic import Anthropic
from sandboxkit.gateway.model.endpoint import ModelEndpoint
from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, say
from sandboxkit.testing.scripted_model.steps import Step

_LIMIT_MS = 5.0
_WARM_UP = 3
_PAUSE_S = 0.02  # between tokens, as of a model


class _Clock:
    """Takes the time at which the model's server begins its answer."""

    def __init__(self) -> None:
        self.answered = 0.0
        self.pause_s = _PAUSE_S

    def __call__(self, _request: ModelRequest, /) -> Step:
        self.answered = time.perf_counter()
        return Reply([say("one two three")], pause_s=self.pause_s)


async def measure(rounds: int) -> list[Row]:
    """From the first byte of the model's server to the first event of the caller."""
    clock = _Clock()
    async with ScriptedModel(clock) as model:
        through, direct = await _of_clis(model, clock, rounds)
        rows = [_row("first byte of the model to first event, no network", through, direct)]
        through, direct = await _of_http(model, clock, 4 * rounds)
        rows.append(_row("the same of the endpoint alone, plain HTTP", through, direct))
        clock.pause_s = 0.0  # the second token is in the way of the first
        through, direct = await _of_clis(model, clock, rounds)
        what = "the first, of a model that writes all at once"
        return [*rows, replace(_row(what, through, direct), target="", met=None)]


async def _of_clis(model: ScriptedModel, clock: _Clock, rounds: int) -> tuple[Samples, Samples]:
    async with inside(model) as in_sandbox, local(model) as beside:
        return await _interleaved(
            lambda: _first_event(in_sandbox, clock), lambda: _first_event(beside, clock), rounds
        )


async def _first_event(client: ClaudeSDKClient, clock: _Clock) -> float:
    first = 0.0
    await client.query("go")
    async for message in client.receive_response():
        if isinstance(message, StreamEvent) and not first:
            first = time.perf_counter() - clock.answered
        if isinstance(message, ResultMessage) and message.is_error:
            raise RuntimeError(f"the agent failed: {message.result}")
    return first


async def _of_http(model: ScriptedModel, clock: _Clock, rounds: int) -> tuple[Samples, Samples]:
    upstream = Anthropic(api_key="none", base_url=model.url)
    async with ModelEndpoint(upstream) as endpoint, httpx.AsyncClient(trust_env=False) as client:
        base = endpoint.environment("127.0.0.1", endpoint.port)["ANTHROPIC_BASE_URL"]

        async def ask(url: str) -> float:
            body = {
                "model": "claude-haiku-4-5",
                "max_tokens": 9,
                "stream": True,
                "messages": [{"role": "user", "content": "go"}],
            }
            first = 0.0
            headers = {"x-api-key": "none"}
            path = f"{url}/v1/messages"
            async with client.stream("POST", path, json=body, headers=headers) as answer:
                async for _ in answer.aiter_raw():
                    first = first or time.perf_counter() - clock.answered
            return first

        return await _interleaved(lambda: ask(base), lambda: ask(model.url), rounds)


async def _interleaved(
    ours: Callable[[], Awaitable[float]], theirs: Callable[[], Awaitable[float]], rounds: int
) -> tuple[Samples, Samples]:
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(_WARM_UP + rounds):
        for work, times in zip((ours, theirs), taken, strict=True):
            took = await work()
            if turn >= _WARM_UP:
                times.append(took)
    return Samples(tuple(taken[0])), Samples(tuple(taken[1]))


def _row(what: str, ours: Samples, theirs: Samples) -> Row:
    return Row(
        what,
        ours.median * 1e3,
        "ms",
        "a direct connection",
        theirs.median * 1e3,
        f"at most {_LIMIT_MS:g} ms more",
        (ours.median - theirs.median) * 1e3 <= _LIMIT_MS,
        ours.p95 * 1e3,
    )
