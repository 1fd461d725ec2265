"""`sandboxkit bench model`: figures of each model and size, from the gateway's own clock."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, fail, say
from sandboxkit.testing.scripted_model.steps import Step
from tests.cli.command import Cli


@pytest.fixture
def plain_cli(tmp_path: Path) -> Cli:
    """Without an engine."""
    return Cli(tmp_path)


async def run(cli: Cli, *arguments: str, **env: str) -> Any:
    return await to_thread.run_sync(partial(cli.run, "bench", "model", *arguments, env=env))


def slow(request: ModelRequest) -> Step:
    """Each token after 20 ms, the first of a long prompt after 200 ms."""
    long = len(str(request.body)) > 4000
    return Reply(
        [say("one two three four five")],
        input_tokens=2000 if long else 100,
        output_tokens=5,
        delay_s=0.2 if long else 0.05,
        pause_s=0.02,
    )


async def test_the_figures_of_each_model_and_size(plain_cli: Cli) -> None:
    async with ScriptedModel(slow) as model:
        done = await run(
            plain_cli,
            *("--model", "claude-haiku-4-5", "--model", "claude-opus-4-5", "--runs", "3"),
            *("--prompt-tokens", "50", "--prompt-tokens", "2000", "--max-tokens", "9", "--json"),
            ANTHROPIC_BASE_URL=model.url,
            ANTHROPIC_API_KEY="a-key",
        )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["service"], report["max_tokens"]) == ("anthropic", 9)
    rows = report["models"]
    assert [(row["model"], row["prompt_tokens"]) for row in rows] == [
        ("claude-haiku-4-5", 100),
        ("claude-haiku-4-5", 2000),
        ("claude-opus-4-5", 100),
        ("claude-opus-4-5", 2000),
    ]
    for row, wait in zip(rows, [0.05, 0.2, 0.05, 0.2], strict=True):
        assert (row["runs"], row["failed"], row["output_tokens"]) == (3, 0, 15)
        assert wait <= row["first_token_s"] <= row["first_token_p95_s"]
        assert row["first_token_s"] + 0.1 <= row["total_s"] <= row["total_p95_s"]
        assert 0 < row["tokens_per_s"] <= 5 / 0.1
    assert rows[0]["cost_usd"] == pytest.approx(3 * (100 + 5 * 5) / 1e6)
    assert len(model.requests) == 4 * (1 + 3)
    assert {request.max_tokens for request in model.requests} == {9}
    assert "a-key" not in str(done)


async def test_without_a_key_the_scripted_model_is_measured_and_that_is_said(
    plain_cli: Cli,
) -> None:
    done = await run(plain_cli, "--runs", "1", "--prompt-tokens", "10")
    assert done.returncode == 0, done.stderr
    assert b"no key for a model" in done.stderr
    table = done.stdout.decode()
    assert "claude-haiku-4-5" in table
    assert "FIRST TOKEN" in table
    assert "━" in table
    assert "$" not in table


async def test_a_model_that_refuses_is_an_error(plain_cli: Cli) -> None:
    async with ScriptedModel(lambda _: fail(404, "there is no such model")) as model:
        done = await run(plain_cli, "--model", "nothing", "--base-url", model.url, "--runs", "1")
    assert done.returncode == 1
    assert b"nothing did not answer" in done.stderr
    assert b"there is no such model" in done.stderr
