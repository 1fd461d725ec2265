"""One task over many inputs: outcomes, retries, one budget, cancellation, nothing left."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    AgentError,
    AuthenticationError,
    CapacityError,
    CommandFailedError,
    InvalidSpecError,
    ProviderNotFoundError,
    SandboxClosedError,
    SandboxDiedError,
    UnsupportedError,
)
from sandboxkit.providers.base import Capabilities
from sandboxkit.testing import Answer, MemoryProvider, Reply, ScriptedModel, call, say
from tests.agents.messages_agent import agent
from tests.pool.pools import living, until


def memory(**limits: Any) -> MemoryProvider:
    can = Capabilities(isolation="none", network=frozenset({"none"}), **limits)
    provider = MemoryProvider(capabilities=can)
    provider.on(["double"], lambda call: Answer(0, str(2 * int(call.argv[1]))))
    provider.on(["false"], exit_code=1)
    provider.on(["env"], lambda call: Answer(0, call.env.get("WHO", "")))
    return provider


async def double(sandbox: sk.Sandbox, number: int) -> int:
    return int((await sandbox.exec(["double", str(number)])).text)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxkit.many.run._FIRST_PAUSE_S", 0.0)


async def test_each_input_has_an_outcome() -> None:
    provider = memory()
    outcomes = [one async for one in sk.map(double, range(30), provider=provider)]
    assert sorted((one.index, one.input, one.value) for one in outcomes) == [
        (n, n, 2 * n) for n in range(30)
    ]
    assert {(one.error, one.attempts, one.resumed) for one in outcomes} == {(None, 1, False)}
    assert provider.creates == 30  # each has a sandbox of its own
    assert await living(provider) == set()


async def test_outcomes_come_as_they_are_ready() -> None:
    provider = memory()
    first_may_end = asyncio.Event()

    async def task(sandbox: sk.Sandbox, number: int) -> None:
        if number == 0:
            await first_may_end.wait()

    order: list[int] = []
    async for one in sk.map(task, range(4), provider=provider, concurrency=2):
        order.append(one.index)
        if len(order) == 3:
            first_may_end.set()
    assert order == [1, 2, 3, 0]


async def test_no_more_at_once_than_was_said() -> None:
    provider = memory()
    counts: list[int] = []

    async def task(sandbox: sk.Sandbox, number: int) -> None:
        counts.append(len(await living(provider)))
        await asyncio.sleep(0)

    async for _ in sk.map(task, range(40), provider=provider, concurrency=3):
        pass
    assert max(counts) == 3


async def test_endless_inputs_are_read_no_further_than_there_is_room() -> None:
    provider = memory()
    for endless in (itertools.count, _count):
        read: list[int] = []

        def seen(source: Any = endless, read: list[int] = read) -> Any:
            return _noted(source(), read)

        async with sk.map(double, seen(), provider=provider, concurrency=3) as outcomes:
            taken = 0
            async for _ in outcomes:
                taken += 1
                for _ in range(300):  # a slow reader
                    await asyncio.sleep(0)
                assert len(read) <= taken + 2 * 3
                if taken == 10:
                    break
        assert await living(provider) == set()


def _noted(source: Any, read: list[int]) -> Any:
    if isinstance(source, Iterator):
        return _plainly(source, read)  # pyright: ignore[reportUnknownArgumentType]
    return _asynchronously(source, read)


def _plainly(source: Iterator[int], read: list[int]) -> Iterator[int]:
    for number in source:
        read.append(number)
        yield number


async def _asynchronously(source: AsyncIterator[int], read: list[int]) -> AsyncIterator[int]:
    async for number in source:
        read.append(number)
        yield number


async def _count() -> AsyncIterator[int]:
    for number in itertools.count():
        yield number
        await asyncio.sleep(0)


# errors and retries


async def test_an_error_of_the_task_is_its_outcome_and_is_not_tried_again() -> None:
    provider = memory()

    async def task(sandbox: sk.Sandbox, number: int) -> int:
        if number == 1:
            raise ValueError("mine")
        if number == 2:
            await sandbox.exec(["false"], check=True)
        if number == 3:
            raise AgentError("it gave up", retryable=True)
        return number

    outcomes = {one.index: one async for one in sk.map(task, range(5), provider=provider)}
    assert [type(outcomes[n].error) for n in range(5)] == [
        type(None),
        ValueError,
        CommandFailedError,
        AgentError,
        type(None),
    ]
    assert {one.attempts for one in outcomes.values()} == {1}
    with pytest.raises(ValueError, match="mine"):
        outcomes[1].result()
    assert outcomes[4].result() == 4
    assert provider.creates == 5


async def test_a_dead_sandbox_is_replaced_whatever_the_task_makes_of_it() -> None:
    provider = memory()
    attempts = itertools.count()

    async def task(sandbox: sk.Sandbox, number: int) -> int:
        if next(attempts) < 2:
            await (await provider.attach(sandbox.id)).destroy()
            try:
                await sandbox.exec(["double", "1"])
            except sk.SandboxError:
                raise ValueError("something went wrong") from None
        return await double(sandbox, number)

    outcomes = sk.map(task, [7], provider=provider)
    [one] = [one async for one in outcomes]
    assert (one.value, one.attempts) == (14, 3)
    assert (outcomes.progress.retried, outcomes.progress.done) == (2, 1)
    assert await living(provider) == set()


async def test_retries_come_to_an_end() -> None:
    provider = memory()

    async def task(sandbox: sk.Sandbox, number: int) -> None:
        raise SandboxDiedError("gone", code="oom")

    [one] = [one async for one in sk.map(task, [7], provider=provider, retries=1)]
    assert isinstance(one.error, SandboxDiedError)
    assert (one.attempts, provider.creates) == (2, 2)
    [one] = [one async for one in sk.map(task, [7], provider=provider, retries=0)]
    assert (one.attempts, provider.creates) == (1, 3)


async def test_a_sandbox_that_has_come_to_its_own_end_is_not_replaced() -> None:
    async def task(sandbox: sk.Sandbox, number: int) -> None:
        raise SandboxDiedError("its life-time is over", code="expired", retryable=False)

    [one] = [one async for one in sk.map(task, [7], provider=memory())]
    assert (type(one.error), one.attempts) == (SandboxDiedError, 1)


async def test_a_failed_creation_is_tried_again_where_that_may_help() -> None:
    provider = memory()
    provider.refuse(CapacityError("full"))
    [one] = [one async for one in sk.map(double, [7], provider=provider, wait_s=0)]
    assert (one.value, one.attempts) == (14, 2)
    provider.refuse(AuthenticationError("bad key"))
    [one] = [one async for one in sk.map(double, [7], provider=provider)]
    assert (type(one.error), one.attempts) == (AuthenticationError, 1)


async def test_a_task_that_cancels_itself_is_an_error_and_the_others_go_on() -> None:
    async def task(sandbox: sk.Sandbox, number: int) -> int:
        if number == 1:
            raise asyncio.CancelledError
        return number

    outcomes = {o.index: o async for o in sk.map(task, range(3), provider=memory(), concurrency=1)}
    assert [type(outcomes[n].error) for n in range(3)] == [type(None), RuntimeError, type(None)]


async def test_what_the_inputs_raise_ends_it() -> None:
    provider = memory()

    def inputs() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    outcomes = sk.map(double, inputs(), provider=provider, concurrency=1)
    assert [(await anext(outcomes)).index for _ in range(2)] == [0, 1]
    with pytest.raises(LookupError, match="no more"):
        await anext(outcomes)
    assert [one async for one in outcomes] == []
    assert await living(provider) == set()


async def test_what_is_wrong_is_said_at_once() -> None:
    provider = memory()
    pool = sk.Pool(provider, size=1)
    options: list[dict[str, Any]] = [
        {"concurrency": 0},
        {"retries": -1},
        {"cpus": 2},
        {"budget": sk.Budget(usd=1)},
        {"provider": pool, "cpu": 2},
    ]
    for wrong in options:
        with pytest.raises(InvalidSpecError):
            sk.map(double, [1], agent=None, **({"provider": provider} | wrong))
    for prompt in ("no place", "{", "{}", "{input} {}"):
        with pytest.raises(InvalidSpecError, match="prompt"):
            sk.map(prompt, [1], provider=provider)
    with pytest.raises(ProviderNotFoundError):
        await anext(sk.map(double, [1], provider="no-such"))
    with pytest.raises(UnsupportedError, match="cpu"):
        await anext(sk.map(double, [1], provider=provider, cpu=2))
    assert provider.creates == 0


# leaving


async def test_leaving_early_cancels_the_rest_and_waits_until_it_is_gone() -> None:
    provider = memory()
    began: list[int] = []
    cancelled: list[int] = []

    async def task(sandbox: sk.Sandbox, number: int) -> int:
        if number:
            began.append(number)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
        return number

    async with sk.map(task, itertools.count(), provider=provider, concurrency=4) as outcomes:
        async for _ in outcomes:
            await until(lambda: len(began) == 4)
            break
    assert await living(provider) == set()
    assert sorted(cancelled) == [1, 2, 3, 4]
    assert [one async for one in outcomes] == []
    await outcomes.aclose()


async def test_leaving_without_a_block_cancels_the_rest_soon() -> None:
    provider = memory()
    async for _ in sk.map(double, itertools.count(), provider=provider):
        break
    gc.collect()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert await living(provider) == set()


@pytest.mark.parametrize("seed", range(30))
async def test_cancelled_at_any_moment_it_leaves_nothing(seed: int) -> None:
    chance = random.Random(seed)
    provider = memory()

    async def use() -> None:
        async for _ in sk.map(double, itertools.count(), provider=provider, concurrency=5):
            await asyncio.sleep(0)

    task = asyncio.create_task(use())
    for _ in range(chance.randrange(200)):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert await living(provider) == set()


async def test_cancelled_while_it_waits_everything_is_gone_when_the_caller_knows() -> None:
    provider = memory()

    async def task(sandbox: sk.Sandbox, number: int) -> None:
        await asyncio.sleep(3600)

    async def use() -> None:
        async for _ in sk.map(task, range(9), provider=provider):
            pass

    using = asyncio.create_task(use())
    await until(lambda: provider.creates == 8)
    using.cancel()
    await asyncio.wait({using})
    assert await living(provider) == set()


async def test_closed_by_another_task_it_ends_for_who_waits() -> None:
    provider = memory()

    async def task(sandbox: sk.Sandbox, number: int) -> None:
        await asyncio.sleep(3600)

    async with sk.map(task, range(3), provider=provider) as outcomes:
        waiting = asyncio.create_task(anext(outcomes, None))
        await until(lambda: provider.creates == 3)
        await outcomes.aclose()
        assert await waiting is None


# progress, a pool, agents


async def test_progress_is_told() -> None:
    told: list[sk.MapProgress] = []

    async def task(sandbox: sk.Sandbox, number: int) -> None:
        if number == 2:
            raise ValueError

    outcomes = sk.map(task, range(4), provider=memory(), on_progress=told.append)
    assert outcomes.progress == sk.MapProgress(total=4)
    async for _ in outcomes:
        pass
    assert told[-1] == outcomes.progress == sk.MapProgress(total=4, done=3, failed=1)
    assert max(each.running for each in told) > 1
    assert sk.map(task, itertools.count(), provider=memory()).progress.total is None


async def test_a_progress_callback_may_fail() -> None:
    def broken(progress: sk.MapProgress) -> None:
        raise ValueError

    assert len([o async for o in sk.map(double, [1], provider=memory(), on_progress=broken)]) == 1


async def test_on_a_pool_each_has_a_machine_of_its_own() -> None:
    provider = memory()

    async def task(sandbox: sk.Sandbox, number: int) -> tuple[str, str]:
        return sandbox.id, (await sandbox.exec(["env"])).text

    async with sk.Pool(provider, size=3) as pool:
        outcomes = [o async for o in sk.map(task, range(9), provider=pool, env={"WHO": "me"})]
        assert len({one.result()[0] for one in outcomes}) == 9
        assert {one.result()[1] for one in outcomes} == {"me"}
        assert pool.claimed == 0
    [one] = [o async for o in sk.map(task, [1], provider=pool)]
    assert isinstance(one.error, SandboxClosedError)


async def test_a_prompt_for_an_agent() -> None:
    provider = memory()
    async with ScriptedModel([say("Done.")] * 4) as model:
        inputs = [{"name": "a", "n": 1}, {"name": "b", "n": 2}]
        outcomes = sk.map("Do {name} {n} times", inputs, provider=provider, agent=agent(model))
        texts = [one.result().text async for one in outcomes]
        numbers = sk.map("Do {input}", [3, 4], provider=provider, agent=agent(model))
        texts += [one.result().text async for one in numbers]
        prompts = sorted(request.messages[-1].content[0].text for request in model.requests)
    assert texts == ["Done."] * 4
    assert prompts == ["Do 3", "Do 4", "Do a 1 times", "Do b 2 times"]
    assert provider.creates == 4
    assert await living(provider) == set()


async def test_a_prompt_that_an_input_does_not_fit_is_that_inputs_error() -> None:
    provider = memory()
    async with ScriptedModel([say("Done.")]) as model:
        inputs = [{"name": "a"}, {"other": "b"}]
        run = sk.map("Do {name}", inputs, provider=provider, agent=agent(model), concurrency=1)
        outcomes = [one async for one in run]
    assert outcomes[0].error is None
    assert isinstance(outcomes[1].error, InvalidSpecError)


async def test_a_function_with_a_session() -> None:
    async def task(session: sk.Session, number: int) -> str:
        first = await session.run(f"Do {number}")
        return first.text + (await session.run("Again")).text

    async with ScriptedModel([say("One."), say("Two.")]) as model:
        run = sk.map(task, [1], provider=memory(), agent=agent(model))
        assert [one.result() async for one in run] == ["One.Two."]


async def test_one_budget_for_all() -> None:
    provider = memory()
    budget = sk.Budget(tokens=250)
    async with ScriptedModel([Reply([say("Done.")], input_tokens=90, output_tokens=10)] * 9) as m:
        run = sk.map(
            "Do {input}", range(9), provider=provider, agent=agent(m), budget=budget, concurrency=1
        )
        outcomes = [one async for one in run]
    spent = [one for one in outcomes if isinstance(one.error, sk.BudgetExceededError)]
    assert [one.error for one in outcomes[:3]] == [None] * 3
    assert len(spent) == 6
    assert {one.attempts for one in spent} == {0}  # nothing was made for them
    assert provider.creates == 3
    assert run.progress.failed == 6


async def test_an_agent_that_the_budget_has_stopped_has_no_value() -> None:
    provider = memory()
    budget = sk.Budget(requests=1)
    tool = sk.Tool("look", "Looks.", {"type": "object", "properties": {}}, _look)
    async with ScriptedModel([call("look"), say("Done.")]) as model:
        worker = agent(model, tools=[tool])
        run = sk.map("Do {input}", [1], provider=provider, agent=worker, budget=budget)
        [one] = [one async for one in run]
    assert isinstance(one.error, sk.BudgetExceededError)
    assert (one.value, one.attempts) == (None, 1)


async def _look(arguments: Mapping[str, Any]) -> str:
    return "seen"
