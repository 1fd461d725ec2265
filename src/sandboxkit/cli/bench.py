"""`sandboxkit bench model`: how long a model takes, measured at the gateway."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import anyio.to_thread
import httpx
from rich.table import Table
from rich.text import Text

from sandboxkit.agents.service import upstream_for
from sandboxkit.cli.outcome import FAILED
from sandboxkit.cli.terminal import complain, make_console, plain, styled
from sandboxkit.errors import AuthenticationError
from sandboxkit.gateway.model.endpoint import ModelEndpoint

if TYPE_CHECKING:
    from rich.console import Console

    from sandboxkit.gateway.model.meter import ModelCall
    from sandboxkit.gateway.model.upstream import Upstream

_BAR: Final = 40  # characters
_DEADLINE_S: Final = 300.0
_ASK: Final = "Count from one upwards, in words, until you are stopped."
_FILLER: Final = "The following words mean nothing; do not answer them: "


@dataclass(frozen=True, slots=True)
class Figures:
    """One model with one size of prompt; seconds.

    Attributes:
        model: Its name, as asked for.
        prompt_tokens: Tokens of the prompt: as the service counted them, at the median.
        runs: How many were answered.
        failed: How many were not; they are in no figure.
        first_token_s: From the request to the first token, at the median.
        first_token_p95_s: The 95th percentile.
        total_s: Baseline latency: from the request to the end of the answer, at the median.
        total_p95_s: The 95th percentile.
        tokens_per_s: Of the answer, from its first token on, at the median.
        output_tokens: Of all answers together.
        cost_usd: Of all requests together; None where the price is not known, or nobody asks one.
    """

    model: str
    prompt_tokens: int
    runs: int
    failed: int
    first_token_s: float
    first_token_p95_s: float
    total_s: float
    total_p95_s: float
    tokens_per_s: float
    output_tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    models: Sequence[str]
    prompt_tokens: Sequence[int]
    runs: int
    max_tokens: int


async def bench_model(plan: Plan, *, base_url: str | None, as_json: bool) -> int:
    """Measure, and show it; the exit code."""
    console = make_console(stderr=as_json or not sys.stdout.isatty())
    figures: list[Figures] = []
    async with _service(base_url) as (upstream, scripted), ModelEndpoint(upstream) as endpoint:
        if scripted:
            said = (
                "There is no key for a model, so this measures the scripted model on this "
                "machine: what the gateway and this machine take, and nothing of a real model."
            )
            console.print(styled(said, "yellow"))
        async with httpx.AsyncClient(trust_env=False, timeout=_DEADLINE_S) as client:
            way = _Way(upstream, endpoint, client)
            for model in plan.models:
                for tokens in plan.prompt_tokens:
                    with console.status(plain(f"{model}, {tokens} tokens")):
                        found = await _measure(way, model, tokens, plan)
                    if found is None:
                        return FAILED
                    figures.append(replace(found, cost_usd=None) if scripted else found)
    if as_json:
        report = {
            "service": "scripted" if scripted else upstream.name,
            "max_tokens": plan.max_tokens,
            "models": [asdict(each) for each in figures],
        }
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        _show(make_console(), figures)
    return 0


@contextlib.asynccontextmanager
async def _service(base_url: str | None) -> AsyncGenerator[tuple[Upstream, bool]]:
    """The service to measure, and whether it is only the scripted model."""
    from sandboxkit.gateway.model.anthropic import Anthropic
    from sandboxkit.testing import ScriptedModel

    key = os.environ.get("SANDBOXKIT_MODEL_KEY") if base_url is not None else None
    try:
        found = await anyio.to_thread.run_sync(
            lambda: upstream_for({}, model_url=base_url, api_key=key)
        )
    except AuthenticationError:
        async with ScriptedModel(_answer) as model:
            yield Anthropic(base_url=model.url), True
        return
    yield found, False


def _answer(request: Any) -> Any:
    from sandboxkit.testing import Reply, say

    size = int(request.max_tokens or 1)
    read = len(json.dumps(request.body)) // 4
    return Reply([say("one " * size)], input_tokens=read, output_tokens=size)


@dataclass(frozen=True, slots=True)
class _Way:
    """The way to the service, through the gateway."""

    upstream: Upstream
    endpoint: ModelEndpoint
    client: httpx.AsyncClient


async def _measure(way: _Way, model: str, tokens: int, plan: Plan) -> Figures | None:
    """The figures; None, and a complaint, where no run was answered."""
    calls: list[ModelCall] = []
    stop = way.endpoint.account.meter.listen(calls.append)
    url, body = _request(way, model, tokens, plan.max_tokens)
    said = ""
    try:
        for _ in range(1 + plan.runs):  # the first one makes the connections
            said = await _ask(way.client, url, body) or said
        await way.endpoint.settled()
    finally:
        stop()
    good = [call for call in calls[1:] if call.complete and call.status == 200]
    if not good:
        complain(f"{model} did not answer: {said[:500] or 'no answer'}")
        return None
    return _figures(model, good, failed=plan.runs - len(good))


async def _ask(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> str:
    """Ask once, as an agent does: streamed. What the service says instead, where it refuses."""
    try:
        async with client.stream("POST", url, json=body, headers=_HEADERS) as answer:
            if answer.status_code != 200:
                return (await answer.aread()).decode("utf-8", "replace")
            async for _ in answer.aiter_raw():
                pass
    except httpx.HTTPError as error:
        return f"the answer broke off ({type(error).__name__})"
    return ""


_HEADERS: Final = {"anthropic-version": "2023-06-01"}


def _request(way: _Way, asked: str, tokens: int, max_tokens: int) -> tuple[str, dict[str, Any]]:
    """Where to, and what: as Claude Code would speak to this service."""
    env = way.endpoint.environment("127.0.0.1", way.endpoint.port)
    model = way.upstream.model_name(asked) or asked
    filler = _FILLER + "word " * max(0, tokens - 30)  # about a token each
    body: dict[str, Any] = {
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": f"{filler}\n\n{_ASK}"}],
    }
    if base := env.get("ANTHROPIC_BEDROCK_BASE_URL"):
        body["anthropic_version"] = "bedrock-2023-05-31"
        return f"{base}/model/{quote(model, safe='')}/invoke-with-response-stream", body
    if base := env.get("ANTHROPIC_VERTEX_BASE_URL"):
        project, region = env["ANTHROPIC_VERTEX_PROJECT_ID"], env["CLOUD_ML_REGION"]
        place = f"projects/{project}/locations/{region}/publishers/anthropic/models/{model}"
        body |= {"anthropic_version": "vertex-2023-10-16", "stream": True}
        return f"{base}/{place}:streamRawPredict", body
    base = env.get("ANTHROPIC_FOUNDRY_BASE_URL") or env["ANTHROPIC_BASE_URL"]
    return f"{base}/v1/messages", {**body, "model": model, "stream": True}


def _figures(model: str, calls: Sequence[ModelCall], *, failed: int) -> Figures:
    first = [call.first_token_s or call.total_s for call in calls]
    total = [call.total_s for call in calls]
    usages = [call.usage for call in calls if call.usage is not None]
    speeds = [
        call.usage.output_tokens / (call.total_s - call.first_token_s)
        for call in calls
        if call.usage and call.first_token_s is not None and call.total_s > call.first_token_s
    ]
    costs = [call.cost_usd for call in calls]
    read = [usage.total_tokens - usage.output_tokens for usage in usages]
    return Figures(
        model=model,
        prompt_tokens=round(statistics.median(read)) if read else 0,
        runs=len(calls),
        failed=failed,
        first_token_s=statistics.median(first),
        first_token_p95_s=_p95(first),
        total_s=statistics.median(total),
        total_p95_s=_p95(total),
        tokens_per_s=statistics.median(speeds) if speeds else 0.0,
        output_tokens=sum(usage.output_tokens for usage in usages),
        cost_usd=None if None in costs else math.fsum(cost or 0.0 for cost in costs),
    )


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _show(console: Console, figures: Sequence[Figures]) -> None:
    """The table, and below it where the time goes: to the first token, and from there on."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("MODEL", "PROMPT", "FIRST TOKEN", "P95", "TOTAL", "P95", "TOKENS/S", "COST"):
        table.add_column(heading, justify="left" if heading == "MODEL" else "right")
    for each in figures:
        failed = f" ({each.failed} failed)" if each.failed else ""
        table.add_row(
            plain(each.model) + failed,
            f"{each.prompt_tokens:,}",
            _ms(each.first_token_s),
            _ms(each.first_token_p95_s),
            _ms(each.total_s),
            _ms(each.total_p95_s),
            f"{each.tokens_per_s:,.0f}",
            "-" if each.cost_usd is None else f"${each.cost_usd:.4f}",
        )
    console.print(table)
    console.print()
    longest = max(each.total_s for each in figures) or 1.0
    picture = Table.grid(padding=(0, 2))
    for each in figures:
        waited = round(_BAR * each.first_token_s / longest)
        written = max(0, round(_BAR * each.total_s / longest) - waited)
        bar = Text("━" * waited, "yellow").append("━" * written, "cyan")
        picture.add_row(f"{plain(each.model)}, {each.prompt_tokens:,}", bar)
    picture.add_row("", Text("until the first token", "yellow").append(", generation", "cyan"))
    console.print(picture)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms"
