"""The journal of a map: what is done is not done again, whatever ended the first run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import sandboxkit as sk
from sandboxkit.errors import InvalidSpecError
from sandboxkit.testing import MemoryProvider, Reply, ScriptedModel, say
from tests.agents.messages_agent import agent


class Task:
    """Doubles a number, and remembers for which it was asked; some fail."""

    def __init__(self, *failing: object) -> None:
        self.failing = failing
        self.asked: list[Any] = []

    async def __call__(self, sandbox: sk.Sandbox, value: Any) -> Any:
        self.asked.append(value)
        if value in self.failing:
            raise ValueError(value)
        return {"twice": value * 2}


async def run(
    task: Any, inputs: Iterable[Any], journal: Path, **options: Any
) -> dict[int, sk.Outcome[Any, Any]]:
    outcomes = sk.map(task, inputs, provider=MemoryProvider(), journal=journal, **options)
    return {one.index: one async for one in outcomes}


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "made" / "journal.jsonl"


async def test_what_has_a_value_is_not_done_again(journal: Path) -> None:
    first, second = Task(2), Task()
    outcomes = await run(first, range(4), journal)
    assert [outcomes[n].resumed for n in range(4)] == [False] * 4
    assert isinstance(outcomes[2].error, ValueError)
    outcomes = await run(second, range(5), journal)
    assert sorted(second.asked) == [2, 4]
    assert [outcomes[n].result() for n in range(5)] == [{"twice": 2 * n} for n in range(5)]
    assert [outcomes[n].resumed for n in range(5)] == [True, True, False, True, False]
    assert mode_of(journal) == 0o600


async def test_a_resumed_outcome_has_its_attempts_and_counts_as_done(journal: Path) -> None:
    await run(Task(), [1], journal)
    changed = content_of(journal).replace(b'"attempts": 1', b'"attempts": 3')
    put(journal, changed)
    outcomes = sk.map(Task(), [1], provider=MemoryProvider(), journal=journal)
    assert [one.attempts async for one in outcomes] == [3]
    assert outcomes.progress == sk.MapProgress(total=1, done=1, resumed=1)


async def test_another_input_at_the_same_index_is_done(journal: Path) -> None:
    await run(Task(), ["a", "b"], journal)
    again, third = Task(), Task()
    outcomes = await run(again, ["a", "c"], journal)
    assert again.asked == ["c"]
    assert outcomes[1].value == {"twice": "cc"}
    outcomes = await run(third, ["a", "c"], journal)  # the last word counts
    assert (third.asked, outcomes[1].value) == ([], {"twice": "cc"})


async def test_inputs_of_many_kinds_are_told_apart(journal: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int

    class Model(BaseModel):
        x: int

    async def task(sandbox: sk.Sandbox, value: object) -> str:
        return type(value).__name__

    inputs = ["1", 1, b"1", Path("1"), [1], {"a": 1, "b": 2}, Point(1), Model(x=1), None, 1.5]
    await run(task, inputs, journal)
    inputs[5] = {"b": 2, "a": 1}  # the order of keys is none
    again = await run(task, inputs, journal)
    assert all(one.resumed for one in again.values())
    others = ["2", 2, b"2", Path("2"), [2], {"a": 2}, Point(2), Model(x=2), False, 2.5]
    changed = await run(task, others, journal)
    assert not any(one.resumed for one in changed.values())


async def test_an_input_that_cannot_be_told_apart_is_refused_before_it_is_done(
    journal: Path,
) -> None:
    task = Task()
    with pytest.raises(InvalidSpecError, match="cannot tell this input from others"):
        await run(task, [object()], journal)
    assert task.asked == []


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, object(), float("nan"), b"bytes"])
async def test_a_value_that_would_not_come_back_as_it_was_is_refused(
    value: object, journal: Path
) -> None:
    async def task(sandbox: sk.Sandbox, number: int) -> object:
        return value

    with pytest.raises(InvalidSpecError, match="cannot be kept in the journal"):
        await run(task, [1], journal)


async def test_half_a_line_is_dropped_wherever_a_crash_has_cut(journal: Path) -> None:
    await run(Task(), range(2), journal)
    whole = content_of(journal)
    head, first, _ = whole.splitlines(keepends=True)
    for length in {*range(0, len(whole), 7), len(whole) - 1}:
        put(journal, whole[:length])
        kept = length >= len(head + first)
        task = Task()
        outcomes = await run(task, range(2), journal)
        assert len(task.asked) == 2 - kept
        assert {one.result()["twice"] for one in outcomes.values()} == {0, 2}
        lines = [json.loads(line) for line in content_of(journal).splitlines()]
        assert sorted(line.get("index", -1) for line in lines) == [-1, 0, 1]


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b'{"a": 1}\n', b"[]\n", b"\x80\n"])
async def test_another_file_is_not_touched(content: bytes, journal: Path) -> None:
    put(journal, content)
    with pytest.raises(InvalidSpecError, match="is not a journal"):
        await run(Task(), [1], journal)
    assert content_of(journal) == content


async def test_another_prompt_is_another_task(journal: Path) -> None:
    async with ScriptedModel([say("One."), say("Two.")]) as model:
        await run("Do {input}", [1], journal, agent=agent(model))
        with pytest.raises(InvalidSpecError, match="the journal of another task"):
            await run("Undo {input}", [1], journal, agent=agent(model))
        assert len(model.requests) == 1


async def test_the_result_of_an_agent_comes_back(journal: Path) -> None:
    async with ScriptedModel([Reply([say("One.")], input_tokens=7)]) as model:
        first = (await run("Do {input}", [1], journal, agent=agent(model)))[0].result()
        again = (await run("Do {input}", [1], journal, agent=agent(model)))[0]
        assert len(model.requests) == 1
    result = again.result()
    assert again.resumed
    left_out = {"messages": (), "metered": None, "raw": None}
    assert dataclasses.replace(first, **left_out) == result
    assert result.usage.input_tokens == 7
    assert isinstance(result, type(first))


async def test_a_budget_that_was_spent_is_no_result(journal: Path) -> None:
    budget = sk.Budget(tokens=0)
    async with ScriptedModel([say("One.")]) as model:
        options: dict[str, Any] = {"agent": agent(model), "budget": budget}
        first = await run("Do {input}", [1], journal, **options)
        assert isinstance(first[0].error, sk.BudgetExceededError)
        budget.allow(tokens=10_000)
        assert (await run("Do {input}", [1], journal, **options))[0].result().text == "One."


async def test_one_run_at_a_time_has_it(journal: Path) -> None:
    async def task(sandbox: sk.Sandbox, number: int) -> None:
        await asyncio.sleep(0)

    async with sk.map(task, range(3), provider=MemoryProvider(), journal=journal) as outcomes:
        await anext(outcomes)
        with pytest.raises(InvalidSpecError, match="a run under way"):
            await run(task, range(3), journal)
    await run(task, range(3), journal)


PROGRAM = """
import asyncio, sys
import sandboxkit as sk
from sandboxkit.testing import MemoryProvider

async def task(sandbox, number):
    print("did", number, flush=True)
    return number

async def main():
    async for one in sk.map(task, range(200), provider=MemoryProvider(), journal=sys.argv[1]):
        print("got", one.index, flush=True)

asyncio.run(main())
"""


async def test_what_the_caller_has_seen_survives_a_kill(journal: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(journal), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    seen: set[int] = set()
    async with asyncio.timeout(60):
        while len(seen) < 20:
            word, number = (await process.stdout.readline()).split()
            if word == b"got":
                seen.add(int(number))
        os.kill(process.pid, signal.SIGKILL)
        rest = await process.stdout.read()
        await process.wait()
    seen |= {int(line.split()[1]) for line in rest.splitlines() if line.startswith(b"got ")}
    again: list[int] = []

    async def task(sandbox: sk.Sandbox, number: int) -> int:
        again.append(number)
        return number

    outcomes = await run(task, range(200), journal)
    assert not seen & set(again)
    assert [outcomes[n].value for n in range(200)] == list(range(200))
