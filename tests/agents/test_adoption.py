"""An agent that outlives its host, and is taken up by another one in the middle of a turn."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from claude_agent_sdk import (
    HookMatcher,
    PermissionResultAllow,
    create_sdk_mcp_server,
    tool,
)

from sandboxkit.agents import Event, Finished, TextDelta, ToolCall, ToolResult
from sandboxkit.agents.claude_code import ClaudeCode, claude_code_artifact
from sandboxkit.agents.claude_code.note import read_mark, read_note
from sandboxkit.errors import AgentError, SandboxClosedError, SandboxError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import MemoryProvider, ModelRequest, Reply, ScriptedModel, call, say
from tests.agents.first_host import CLI, TEE, TRUTH, Attached, Wanted, agent, key, truth
from tests.agents.messages_agent import agent as messages_agent
from tests.agents.test_transport_errors import KILL_CLI

STALLED = Reply([say("one two three")], stall_after_events=4)


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    """With a CLI that also writes down what it says; its host speaks every second."""
    artifacts = [await claude_code_artifact()]
    async with Sandbox.create("docker", artifacts=artifacts, lease_s=6) as sandbox:
        await sandbox.files.write(CLI, TEE, mode=0o755)
        yield sandbox


@pytest.fixture
async def again(sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    """The same, as another host has it."""
    async with Sandbox.attach("docker", sandbox.id) as again:
        yield again


def first(sandbox: Sandbox, model: ScriptedModel, session_id: str, **options: Any) -> Attached:
    return Attached(sandbox, agent=agent(model.url, **options).durable(), id=session_id)


def second(sandbox: Sandbox, model: ScriptedModel, session_id: str, **options: Any) -> Attached:
    return Attached(sandbox, agent=agent(model.url, **options).durable(), resume=session_id)


async def follow(session: Attached, after: str | None = None) -> list[Event]:
    return [event async for event in session.follow(after)]


async def begin(
    session: Attached, until: Callable[[Event], bool]
) -> tuple[list[Event], str | None]:
    """Follow a turn until something happens, and let go; what was seen, and the position."""
    seen: list[Event] = []
    stream = session.stream("Go")
    async for event in stream:
        seen.append(event)
        if until(event):
            position = stream.position
            await session.let_go()
            return seen, position
    raise AssertionError("the turn has ended")


def is_text(event: Event) -> bool:
    return isinstance(event, TextDelta)


def is_call(event: Event) -> bool:
    return isinstance(event, ToolCall)


async def written(sandbox: Sandbox) -> str:
    return (await sandbox.files.read(TRUTH)).decode()


async def said_by_cli(sandbox: Sandbox) -> list[str]:
    return truth(await written(sandbox))


# killed


def long_turn(request: ModelRequest) -> Reply:
    """Two tool calls, and text before, between and after them."""
    script = (
        Reply([say("word " * 60), call("Bash", command="sleep 1; seq 3")], pause_s=0.01),
        Reply([say("more " * 60), call("Bash", command="sleep 1; echo again")], pause_s=0.01),
        Reply([say("end " * 60)], pause_s=0.01),
    )
    answered = sum(message.role == "assistant" for message in request.messages)
    return script[min(answered, 2)]


async def killed(wanted: Wanted, after_s: float) -> list[tuple[str, str]]:
    """Run a host, and kill it some time after its first event; what it has written down."""
    journal = anyio.Path(wanted.journal)
    await journal.touch()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.agents.first_host", json.dumps(asdict(wanted))
    )
    try:
        with anyio.fail_after(60):
            while not await journal.read_text() and child.returncode is None:
                await asyncio.sleep(0.02)
        await asyncio.sleep(after_s)
    finally:
        assert child.returncode is None
        child.send_signal(signal.SIGKILL)
        await child.wait()
    lines = (await journal.read_text()).splitlines()
    return [(name, position) for name, position in map(json.loads, lines)]


async def one_round(sandbox: Sandbox, folder: Path, delays: list[float]) -> None:
    """One turn, of which each of several hosts sees a part."""
    await sandbox.files.write(TRUTH, "")
    session_id, seen = str(uuid4()), list[tuple[str, str]]()
    async with ScriptedModel(long_turn) as model:
        for number, delay_s in enumerate(delays):
            after = seen[-1][1] if seen else None
            journal = str(folder / f"{session_id}-{number}")
            wanted = Wanted(
                sandbox.id, model.url, session_id, journal, follow=number > 0, after=after
            )
            seen += await killed(wanted, delay_s)
        async with second(sandbox, model, session_id) as session:
            rest = [] if seen[-1][0].startswith("Finished") else await follow(session, seen[-1][1])
            everything = [name for name, _ in seen] + [key(event) for event in rest]
            assert everything == await said_by_cli(sandbox)
            assert (await session.run("And then?")).text.startswith("end")


async def test_a_host_is_killed_and_the_rest_of_the_turn_comes_once(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """In the middle of the model's answer."""
    await one_round(sandbox, tmp_path, [0.4])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=pytest.mark.slow if n < 3 else pytest.mark.chaos) for n in range(20)],
)
async def test_hosts_are_killed_at_any_moment(sandbox: Sandbox, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    delays = [chance.uniform(0, 2.5) for _ in range(chance.randint(1, 2))]
    await one_round(sandbox, tmp_path, delays)


# let go


async def test_the_rest_of_a_turn_that_was_let_go_of(sandbox: Sandbox, again: Sandbox) -> None:
    session_id = str(uuid4())
    async with ScriptedModel(long_turn) as model:
        async with first(sandbox, model, session_id) as session:
            seen, position = await begin(session, is_text)
        async with second(again, model, session_id) as session:
            rest = await follow(session, position)
            with pytest.raises(AgentError) as raised:
                await follow(session)
    assert raised.value.code == "no_turn"
    everything = [key(event) for event in seen + rest]
    assert everything == await said_by_cli(sandbox)
    assert len(everything) == len(set(everything))
    assert isinstance(rest[-1], Finished)
    assert rest[-1].result.text == "end " * 60


@pytest.mark.slow
async def test_without_a_position_the_event_in_hand_comes_again(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())
    async with ScriptedModel(long_turn) as model:
        async with first(sandbox, model, session_id) as session:
            seen, _ = await begin(session, is_call)
        async with second(again, model, session_id) as session:
            rest = await follow(session)
    assert key(rest[0]) == key(seen[-1])
    assert [key(event) for event in seen[:-1] + rest] == await said_by_cli(sandbox)


@pytest.mark.slow
async def test_a_turn_that_ended_without_a_host(sandbox: Sandbox, again: Sandbox) -> None:
    """More is said meanwhile than is kept of an ordinary process's output."""
    session_id, wait = str(uuid4()), "until [ -e /work/go ]; do sleep 0.1; done"
    many = Reply([say(" ".join(f"n{n}" for n in range(2200)))])
    script = [Reply([say("Now."), call("Bash", command=wait)]), many]
    async with ScriptedModel(script) as model:
        async with first(sandbox, model, session_id) as session:
            seen, position = await begin(session, is_call)
        await sandbox.files.write("go", b"")
        async with second(again, model, session_id) as session:  # there is a model again
            while '"result":"n0 n1 ' not in (text := await written(sandbox)) or text[-1] != "\n":
                await asyncio.sleep(0.1)
            await session.let_go()
        async with second(again, model, session_id) as session:
            rest = await follow(session, position)
    assert [key(event) for event in seen + rest] == truth(text)
    assert len(text) > 600 * 1024
    assert isinstance(rest[-1], Finished)
    assert rest[-1].result.text.endswith("n2199")


@pytest.mark.slow
async def test_between_turns(sandbox: Sandbox, again: Sandbox) -> None:
    """What it has cost adds up, and nothing is asked twice."""
    session_id = str(uuid4())
    model = ScriptedModel([say("One."), say("Two."), say("Three.")])
    async with model:
        async with first(sandbox, model, session_id) as session:
            one = await session.run("Go")
            await session.let_go()
        async with second(again, model, session_id) as session:
            assert not session.conversation.turning
            two = await session.run("On")
            three = await session.run("On")
    assert [one.text, two.text, three.text] == ["One.", "Two.", "Three."]
    assert one.usage == two.usage == three.usage
    assert one.cost_usd == pytest.approx(two.cost_usd) == pytest.approx(three.cost_usd)
    assert two.notes == ()
    assert "One." in str(model.requests[1].messages)


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_a_stream_that_is_left_at_its_last_event_is_done_with(
    sandbox: Sandbox, again: Sandbox, how: str
) -> None:
    session_id = str(uuid4())
    async with ScriptedModel([say("One."), say("Two.")]) as model:
        async with first(sandbox, model, session_id) as session:
            stream = session.stream("Go")
            while not isinstance(await anext(stream), Finished):
                pass
            if how == "closed":
                await stream.aclose()
            else:
                del stream
            await session.let_go()
        async with second(again, model, session_id) as session:
            assert (await session.run("On")).text == "Two."


@pytest.mark.slow
async def test_what_a_turn_has_cost_is_of_the_whole_turn(sandbox: Sandbox, again: Sandbox) -> None:
    session_id = str(uuid4())
    tool_call = Reply([say("a"), call("Bash", command="echo")])
    async with ScriptedModel([say("Before."), tool_call, say("b"), say("c")]) as model:
        async with first(sandbox, model, session_id) as session:
            before = await session.run("First")
            _, position = await begin(session, is_call)
        async with second(again, model, session_id) as session:
            end = (await follow(session, position))[-1]
            assert isinstance(end, Finished)
            assert session.usage == end.result.usage
            after = await session.run("And?")
    assert end.result.usage.output_tokens > before.usage.output_tokens
    assert after.usage.input_tokens == before.usage.input_tokens
    assert "another host" in end.result.notes[0]


# who has it


async def test_an_agent_in_use_is_refused(sandbox: Sandbox, again: Sandbox) -> None:
    session_id = str(uuid4())
    async with ScriptedModel([STALLED, say("Still mine.")]) as model:
        async with first(sandbox, model, session_id) as session:
            running = asyncio.ensure_future(session.run("Go"))
            await model.wait_until(lambda: model.requests)
            async with second(again, model, session_id) as other:
                with pytest.raises(AgentError, match=r"in use: it is held by .*\d") as raised:
                    await other.run("Mine")
            assert raised.value.code == "held"
            await session.interrupt()
            assert (await running).stop_reason == "interrupted"
            assert (await session.run("Go on")).text == "Still mine."


@pytest.mark.slow
async def test_a_prompt_during_an_adopted_turn_is_refused_until_it_is_interrupted(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())

    def until_next(request: ModelRequest) -> Any:
        return say("Again.") if "Next" in str(request.messages) else STALLED

    async with ScriptedModel(until_next) as model:
        async with first(sandbox, model, session_id) as session:
            await begin(session, is_text)
            with pytest.raises(SandboxClosedError):
                await session.run("No more")
        async with second(again, model, session_id) as session:
            with pytest.raises(AgentError, match="Follow it with") as raised:
                await session.run("Next")
            assert raised.value.code == "busy"
            await session.interrupt()
            assert session.usage.output_tokens > 0
            with pytest.raises(AgentError) as none:
                await follow(session)
            assert none.value.code == "no_turn"
            assert (await session.run("Next")).text == "Again."


@pytest.mark.slow
async def test_an_adopted_turn_is_interrupted_while_it_is_followed(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())
    async with ScriptedModel([STALLED, STALLED, say("Again.")]) as model:
        async with first(sandbox, model, session_id) as session:
            await begin(session, is_text)
        async with second(again, model, session_id) as session:
            following = asyncio.ensure_future(follow(session))
            await model.wait_until(lambda: len(model.requests) > 1)
            await session.interrupt()
            end = (await following)[-1]
            assert isinstance(end, Finished)
            assert end.result.stop_reason == "interrupted"
            assert (await session.run("Next")).text == "Again."


@pytest.mark.slow
async def test_positions_that_are_none(sandbox: Sandbox, again: Sandbox) -> None:
    session_id = str(uuid4())
    async with ScriptedModel(long_turn) as model:
        async with first(sandbox, model, session_id) as session:
            _, position = await begin(session, is_call)
        assert position is not None
        process_id, _, offset = position.partition("@")
        forged = f"{'0' * 16}-1@{offset}"
        async with second(again, model, session_id) as session:
            conversation = session.conversation
            for after in ("", "x", "@.", "0" * 999, forged, f"{process_id}@5.0"):
                with pytest.raises(AgentError) as raised:
                    await follow(session, after)
                assert raised.value.code == "bad_position"
            assert session.conversation is conversation  # it goes on
            assert isinstance((await follow(session, position))[-1], Finished)


@pytest.mark.slow
async def test_interrupt_where_the_agent_waits_for_a_slow_reader(sandbox: Sandbox) -> None:
    """All that the sandbox keeps is full, and the answer to the interrupt stands behind it."""
    many = Reply([say("word " * 6000)], stall_after_events=5900)
    async with ScriptedModel([many, say("Again.")]) as model:
        async with first(sandbox, model, str(uuid4())) as session:
            stream = session.stream("Go")
            while not is_text(await anext(stream)):
                pass
            while len(await written(sandbox)) < 1024 * 1024:
                await asyncio.sleep(0.1)
            with anyio.fail_after(60):
                await session.interrupt()
                rest = [event async for event in stream]
            end = rest[-1]
            assert isinstance(end, Finished)
            assert end.result.stop_reason == "interrupted"
            assert sum(map(is_text, rest)) > 3000
            assert (await session.run("Next")).text == "Again."


# questions to the host


async def test_a_question_that_nobody_has_answered_is_asked_again(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id, asked = str(uuid4()), list[str]()
    never = asyncio.Event()

    async def silent(*_: Any) -> PermissionResultAllow:
        asked.append("first")
        await never.wait()
        return PermissionResultAllow()

    async def allow(*_: Any) -> PermissionResultAllow:
        asked.append("second")
        return PermissionResultAllow()

    @tool("add", "Add", {"a": int, "b": int})
    async def add(given: dict[str, Any]) -> dict[str, Any]:
        asked.append("add")
        return {"content": [{"type": "text", "text": str(given["a"] + given["b"])}]}

    async def hook(*_: Any) -> Any:
        asked.append("hook")
        return {}

    def options(can_use_tool: Any) -> dict[str, Any]:
        return {
            "permission_mode": "default",
            "can_use_tool": can_use_tool,
            "mcp_servers": {"sums": create_sdk_mcp_server("sums", tools=[add])},
            "hooks": {"PreToolUse": [HookMatcher(hooks=[hook])]},
        }

    one = Reply([say("So."), call("mcp__sums__add", a=1, b=2)])
    two = Reply([call("mcp__sums__add", a=20, b=22)])
    async with ScriptedModel([one, two, say("Done.")]) as model:
        async with first(sandbox, model, session_id, **options(silent)) as session:
            stream, seen = session.stream("Go"), list[Event]()
            while not (seen and is_call(seen[-1])):
                seen.append(await anext(stream))
            while "first" not in asked:
                await asyncio.sleep(0.02)
            await session.let_go()
        async with second(again, model, session_id, **options(allow)) as session:
            rest = await follow(session, stream.position)

    # The first question's hook had been answered, and was not asked again.
    assert asked == ["hook", "first", "second", "add", "hook", "second", "add"]
    assert [event.text for event in rest if isinstance(event, ToolResult)] == ["3", "42"]
    assert [key(event) for event in seen + rest] == await said_by_cli(sandbox)


# the end


@pytest.mark.slow
async def test_an_agent_that_has_ended_meanwhile_is_started_anew(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())
    model = ScriptedModel([say("A violin."), say("As I said.")])
    async with model:
        async with first(sandbox, model, session_id) as session:
            await session.run("Name an instrument")
            await session.let_go()
        await sandbox.sh(KILL_CLI)
        async with second(again, model, session_id) as session:
            result = await session.run("Which one?")
    assert (result.text, result.session_id) == ("As I said.", session_id)
    assert "A violin." in str(model.requests[1].messages)


@pytest.mark.slow
async def test_an_agent_that_died_in_its_turn_says_what_it_had_said(
    sandbox: Sandbox, again: Sandbox
) -> None:
    session_id = str(uuid4())
    tool_call = Reply([say("a b c"), call("Bash", command="sleep 1; sleep 60.5")])
    async with ScriptedModel([tool_call, tool_call, say("Here I am.")]) as model:
        async with first(sandbox, model, session_id) as session:
            seen, position = await begin(session, is_text)
        async with second(again, model, session_id) as session:  # the model is there again
            while (
                "sleep 60.5"
                not in (await sandbox.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).text
            ):
                await asyncio.sleep(0.1)
            await session.let_go()
        await sandbox.sh(KILL_CLI)
        async with second(again, model, session_id) as session:
            rest: list[Event] = []
            with pytest.raises(AgentError) as raised:  # noqa: PT012 - what came before it counts
                async for event in session.follow(position):
                    rest.append(event)  # noqa: PERF401
            assert raised.value.code == "ended"
            assert (await session.run("Are you there?")).text == "Here I am."
    assert [key(event) for event in seen + rest] == (await said_by_cli(sandbox))[: len(seen + rest)]
    assert any(is_call(event) for event in rest)


@pytest.mark.slow
async def test_leaving_the_session_ends_the_agent(sandbox: Sandbox) -> None:
    session_id = str(uuid4())
    async with ScriptedModel([say("Hello.")]) as model:
        async with first(sandbox, model, session_id) as session:
            await session.run("Go")
    assert not [one for one in await sandbox.processes() if one.running]


# what is found in the sandbox


GOOD: dict[str, Any] = {
    "v": 1,
    "agent": "claude-code",
    "port": 4000,
    "token": "sandboxkit-0123456789abcdef0123",
    "config_dir": "/work",
    "cwd": "/work",
}


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"agent": "x"},
        {"port": 0},
        {"port": "4000"},
        {"token": "x"},
        {"token": "sandboxkit-" + "a" * 5000},
        {"config_dir": "x\n"},
        {"turn": []},
        {"turn": {"prompt_id": "x", "sent": -1}},
        {"totals": {"cost_usd": -1}},
        {"answer": []},
    ],
    ids=str,
)
def test_a_note_that_is_none(change: dict[str, Any]) -> None:
    good = {"session": str(uuid4()), **GOOD}
    assert read_note(json.dumps(good)) is not None
    assert read_note(json.dumps({**good, **change})) is None


@pytest.mark.parametrize("text", ["", "x", "[]", "null", "[" * 9000, '{"v":1}', "\ud800"])
def test_what_is_no_note_and_no_mark(text: str) -> None:
    assert read_note(text) is None
    assert read_mark(text) is None


@pytest.mark.parametrize(
    "mark",
    [{"at": [1]}, {"at": [1, -1]}, {"at": [1, 2], "answered": ["x"] * 500}, {"at": [2**60, 0]}],
    ids=str,
)
def test_a_mark_that_is_none(mark: dict[str, Any]) -> None:
    assert read_mark(json.dumps({"at": [1, 2], "answered": ["x"]})) is not None
    assert read_mark(json.dumps(mark)) is None


@pytest.mark.slow
async def test_a_process_that_is_no_cli_does_the_host_no_harm(
    sandbox: Sandbox, again: Sandbox
) -> None:
    """Its note is right, and what it says is not."""
    session_id = str(uuid4())
    turn = {"prompt_id": "x", "sent": 0}
    note = json.dumps({"session": session_id, **GOOD, "turn": turn})
    script = r"""printf '{"type":7}\n{"type":"control_request"}\n\377\n{'; exec sleep 60"""
    process = await sandbox.spawn(["sh", "-c", script], detach="lossless", note=note)
    await process.aclose()
    async with ScriptedModel([say("Mine.")]) as model:
        session = second(again, model, session_id)
        with anyio.fail_after(60):
            async with session:
                with pytest.raises((SandboxError, ValueError)):
                    await follow(session)


async def test_the_messages_agent_leaves_no_turn(tmp_path: Path) -> None:
    """Its loop is on the host, and over with it."""
    async with ScriptedModel([say("Hello.")]) as model, Sandbox.create(MemoryProvider()) as sandbox:
        loop = messages_agent(model, store=str(tmp_path)).durable()
        async with Attached(sandbox, agent=loop) as session:
            with pytest.raises(AgentError) as raised:
                await follow(session)
            assert raised.value.code == "no_turn"
            assert (await session.run("Go")).text == "Hello."


async def test_an_agent_that_is_not_durable_has_no_positions(sandbox: Sandbox) -> None:
    async with ScriptedModel([say("Hello.")]) as model:
        async with Attached(sandbox, agent=ClaudeCode(model_url=model.url)) as session:
            stream = session.stream("Go")
            assert {stream.position async for _ in stream} == {None}
