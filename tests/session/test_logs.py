"""`session.logs()`: all that happens, in order, with ids, bounded, and without any secret."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from sandboxkit.agents.claude_code import ClaudeCode, claude_code_artifact
from sandboxkit.agents.claude_code.agent import default_options
from sandboxkit.agents.claude_code.binary import TARGET
from sandboxkit.errors import AgentError
from sandboxkit.gateway.model.budget import Budget
from sandboxkit.gateway.secrets import Secret
from sandboxkit.happenings import SandboxEvent
from sandboxkit.redaction import Redactor
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.session.logs import LogLine, LogStream, SessionLog
from sandboxkit.spec import Artifact, NetworkPolicy
from sandboxkit.testing import MemoryProvider, Reply, ScriptedModel, call, fail, say
from tests.agents.messages_agent import KEY, agent

WAIT_S = 60.0


def of(lines: Sequence[LogLine], source: str) -> list[LogLine]:
    return [line for line in lines if line.source == source]


async def test_a_session_from_its_beginning_to_its_end() -> None:
    model = ScriptedModel([Reply([say("Hello.")], input_tokens=10, output_tokens=4), fail(400)])
    read: list[LogLine] = []

    async def follow(stream: LogStream) -> None:
        read.extend([line async for line in stream])

    async with model:
        session = Session(MemoryProvider(), agent=agent(model, max_retries=0))
        reader = asyncio.create_task(follow(session.logs()))
        async with session:
            sandbox_id = session.sandbox.id
            await session.run("Say hello, and never tell PROMPT-CANARY")
            await session.run("And again")
        await asyncio.wait_for(reader, WAIT_S)

    assert tuple(read) == session.log.lines
    assert [line.message for line in of(read, "session")] == [
        "new -> creating",
        "creating -> ready",
        "ready -> running",
        "running -> ready",
        "ready -> running",
        "running -> ready",
        "ready -> closed",
    ]
    assert all(line.session == session.id for line in read)
    assert all(line.at.tzinfo is UTC for line in read)
    assert [line.at for line in read] == sorted(line.at for line in read)
    ready, *differences, destroyed = of(read, "sandbox")
    assert (ready.event, ready.sandbox) == ("sandbox.ready", sandbox_id)
    assert ready.fields["sandboxkit.provider"] == "memory"
    assert {line.event for line in differences} <= {"sandbox.difference"}
    assert destroyed.event == "sandbox.destroyed"
    first, failed = of(read, "model")
    assert (first.level, first.turn) == (logging.INFO, 1)
    assert first.fields["gen_ai.usage.input_tokens"] == 10
    assert first.fields["gen_ai.usage.output_tokens"] == 4
    assert first.fields["http.response.status_code"] == 200
    assert (failed.level, failed.turn) == (logging.WARNING, 2)
    assert failed.fields["http.response.status_code"] == 400
    began, ended, _again, bad = of(read, "turn")
    assert [began.event, ended.event] == ["turn.began", "turn.ended"]
    assert (began.turn, ended.turn, bad.turn) == (1, 1, 2)
    assert ended.fields["sandboxkit.stop_reason"] == "end_turn"
    assert bad.level == logging.WARNING
    assert "CANARY" not in str(read), "prompts are no part of it"
    assert "Hello." not in str(read), "nor are answers"


async def test_json_and_the_loggers_of_python(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sandboxkit.session")
    model = ScriptedModel([say("Hello.")])
    async with model, Session(MemoryProvider(), agent=agent(model)) as session:
        await session.run("Hello")
    records = [one for one in caplog.records if one.name == "sandboxkit.session"]
    lines = session.log.lines
    assert [one.getMessage() for one in records] == [line.message for line in lines]
    for record, line in zip(records, lines, strict=True):
        assert record.levelno == line.level
        for name in ("source", "event", "session", "sandbox", "turn", "fields"):
            assert record.__dict__[name] == getattr(line, name)
    (model_line,) = of(lines, "model")
    told = json.loads(model_line.as_json())
    assert set(told) == {"timestamp", "severity_text", "severity_number", "body", "attributes"}
    assert (told["severity_text"], told["severity_number"]) == ("INFO", 9)
    assert told["attributes"]["event.name"] == "sandboxkit.model.request"
    assert told["attributes"]["session.id"] == session.id
    assert told["attributes"]["sandboxkit.turn"] == 1
    assert "\n" not in model_line.as_json()
    assert "[turn 1]" in str(model_line)


async def test_listeners_and_readers_that_come_late_or_leave() -> None:
    model = ScriptedModel([say("Hello.")])
    heard: list[LogLine] = []

    def broken(_line: LogLine) -> None:
        raise ZeroDivisionError

    async with model, Session(MemoryProvider(), agent=agent(model)) as session:
        session.log.listen(broken)
        end = session.log.listen(heard.append)
        early = session.logs(past=True)
        left = session.logs()
        await left.aclose()
        await session.run("Hello")
        end()
    assert {line.source for line in heard} >= {"turn", "model"}
    assert heard[-1].message != "ready -> closed"
    assert tuple([line async for line in early]) == session.log.lines
    assert [line async for line in left] == []
    late = [line async for line in session.logs(past=True)]
    assert late[-1].message == "ready -> closed"


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    log = SessionLog(lambda: ("s", None, None), Redactor())
    stream = log.follow()
    for number in range(10_007):
        log.write(logging.INFO, "session", "test", f"{number}")
    log.close()
    told, *rest = [line async for line in stream]
    assert (told.source, told.fields) == ("log", {"sandboxkit.log.dropped": 7})
    assert stream.dropped == 7
    assert [rest[0].message, rest[-1].message, len(rest)] == ["7", "10006", 10_000]


async def test_what_breaks_a_turn_is_told_once() -> None:
    model = ScriptedModel([say("Hello.")])
    provider = MemoryProvider()
    async with model, Session(provider, agent=agent(model)) as session:
        events = session.stream("Hello")
        other = session.stream("Meanwhile")
        await anext(events)
        with pytest.raises(AgentError):
            await anext(other)
        await events.aclose()
    lines = [line for line in of(session.log.lines, "turn") if line.event == "turn.failed"]
    (failed,) = lines
    assert failed.fields["error.type"] == "AgentError"
    assert failed.level == logging.ERROR


async def test_a_connection_that_breaks_is_told() -> None:
    provider = MemoryProvider()
    model = ScriptedModel([say("Hello.")])
    async with model, Session(provider, agent=agent(model)) as session:
        seen: list[SandboxEvent] = []
        back = asyncio.Event()

        def told(event: SandboxEvent) -> None:
            seen.append(event)
            if event.kind == "reconnected":
                back.set()

        session.sandbox.events.listen(told)
        provider.cut(session.sandbox.id)
        await asyncio.wait_for(back.wait(), WAIT_S)
        assert [event.kind for event in seen] == ["connection_lost", "reconnected"]
        assert session.sandbox.events.past == tuple(seen)
    events = [line.event for line in of(session.log.lines, "sandbox")]
    assert [each for each in events if each != "sandbox.difference"] == [
        "sandbox.ready",
        "sandbox.connection_lost",
        "sandbox.reconnected",
        "sandbox.destroyed",
    ]


async def test_all_who_share_a_connection_are_told_of_it() -> None:
    provider = MemoryProvider()
    async with Sandbox.create(provider) as sandbox:
        parts = sandbox._parts  # pyright: ignore[reportPrivateUsage]
        other = Sandbox(replace(parts, created=False))
        back = asyncio.Event()
        other.events.listen(lambda event: back.set() if event.kind == "reconnected" else None)
        provider.cut(sandbox.id)
        await asyncio.wait_for(back.wait(), WAIT_S)
        kinds = [event.kind for event in sandbox.events.past]
        assert kinds == [event.kind for event in other.events.past]
        assert kinds == ["connection_lost", "reconnected"]
        other._closed = True  # pyright: ignore[reportPrivateUsage]


async def test_a_budget_warns_once_before_and_once_at_its_limit() -> None:
    model = ScriptedModel([say("One."), say("Two."), say("Three."), say("Four."), say("Five.")])
    budget = Budget(requests=5)
    async with model, Session(MemoryProvider(), agent=agent(model), budget=budget) as session:
        for _ in range(6):
            await session.run("Go on")
    lines = of(session.log.lines, "budget")
    assert [line.event for line in lines] == ["budget.nearly_spent", "budget.spent"]
    assert lines[0].message == "4 of 5 requests spent"
    refused = of(session.log.lines, "model")[-1]
    assert (refused.event, refused.level) == ("model.refused", logging.WARNING)


async def test_the_network_is_told(engine: str) -> None:
    model = ScriptedModel([say("Hello.")])
    policy = NetworkPolicy.allow(["allowed.invalid"])
    async with model, Session("docker", agent=agent(model), network=policy) as session:
        script = "import urllib.request as u; u.urlopen('http://refused.invalid/?q=PATH-CANARY')"
        await session.sandbox.exec(["python3", "-c", script])
    (refused,) = of(session.log.lines, "network")
    assert (refused.event, refused.level) == ("network.refused", logging.WARNING)
    assert refused.fields["server.address"] == "refused.invalid"
    assert refused.fields["server.port"] == 80
    assert "PATH-CANARY" not in str(refused)


async def test_saves_are_told(engine: str, tmp_path: Path) -> None:
    model = ScriptedModel([say("Hello.")])
    store = f"sqlite:///{tmp_path}/sessions.db"
    async with model, Session("docker", agent=agent(model), store=store) as session:
        await session.sandbox.files.write("one", "1234")
        await session.save()
    saved = of(session.log.lines, "store")
    assert {line.event for line in saved} == {"store.saved"}
    assert saved[0].fields == {"sandboxkit.files": 1, "sandboxkit.bytes": 4}


# secrets


CANARIES = {
    "env": "canary-of-the-env-8131",
    "option": "canary-of-the-options-9422",
    "secret": "canary-of-the-secret-1753",
    "key": "canary-of-the-key-5557",
}

LOUD = """#!/bin/sh
env >&2
echo '{secret} came back from a site; %63anary' >&2
echo '{key}' >&2
exec {cli} "$@"
"""


async def test_no_secret_is_in_any_line(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent that writes all that it knows to its stderr."""
    caplog.set_level(logging.DEBUG, "sandboxkit")
    source = anyio.Path(tmp_path / "loud")
    await source.write_text(LOUD.format(cli=TARGET, **CANARIES))
    await source.chmod(0o755)
    loud = Artifact(
        name="loud",
        version="1",
        platform="linux-x86_64",
        source=tmp_path / "loud",
        target="/opt/loud/claude",
    )
    options = default_options()
    options.cli_path = loud.target
    options.env = {"OPTION": CANARIES["option"]}
    model = ScriptedModel([call("Bash", command="true"), say("Done.")])
    tokens: set[str] = set()
    async with (
        model,
        Session(
            "docker",
            agent=ClaudeCode(options, model_url=model.url, api_key=CANARIES["key"]),
            artifacts=(await claude_code_artifact(), loud),
            env={"VALUE": CANARIES["env"]},
            network=NetworkPolicy.allow(["api.invalid"]),
            secrets=[Secret("SECRET", CANARIES["secret"], hosts=["api.invalid"])],
        ) as session,
    ):
        assert (await session.run("Work")).text == "Done."
        account = session._account  # pyright: ignore[reportPrivateUsage]
        tokens |= {route.token for route in account.routes}
        tokens |= {session.sandbox.network.hidden()["token"]}
    assert len(tokens) == 2
    heard = of(session.log.lines, "agent")
    said = "\n".join(line.message for line in heard)
    assert "VALUE=[VALUE]" in said, "it has been heard"
    assert "OPTION=[OPTION]" in said
    assert "[SECRET] came back" in said
    assert "[api_key]" in said
    everything = "\n".join([caplog.text, *(line.as_json() for line in session.log.lines)])
    for value in (*CANARIES.values(), *tokens):
        assert value not in everything


@pytest.mark.parametrize("how", ["as it is", "json", "url", "base64", "line"])
def test_a_value_is_found_however_it_is_written(how: str) -> None:
    import base64

    value = 'pass "word" / ümlaut\nthe second line'
    redactor = Redactor()
    redactor.add({"PASSWORD": value})
    written = {
        "as it is": value,
        "json": json.dumps(value),
        "url": quote(value, safe=""),
        "base64": base64.b64encode(value.encode()).decode(),
        "line": value.splitlines()[1],
    }[how]
    cleaned = redactor.clean(f"before {written} after")
    assert "[PASSWORD]" in cleaned
    assert "word" not in cleaned.replace("[PASSWORD]", "")
    assert "second" not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "sk-ant-api03-abcdefghijklmnopqrst",
        "Authorization: Bearer abcdefghijklmn",
        "https://user:hunter2hunter2@example.com/",
        "AKIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0abc.sflKxwRJSM",
        "X-Amz-Signature=0123456789abcdef0123456789abcdef",
    ],
)
def test_keys_that_nobody_has_named_are_known_by_their_shape(text: str) -> None:
    cleaned = Redactor().clean(text)
    assert text not in cleaned
    assert "[" in cleaned


def test_words_that_stand_everywhere_are_left() -> None:
    redactor = Redactor()
    redactor.add({"MODE": "debug", "DEBUG": "1", "API_KEY": "1234"})
    assert redactor.clean("debug 1 in 2") == "debug 1 in 2"
    assert redactor.clean("key 1234") == "key [API_KEY]"


def test_a_line_cannot_forge_another_or_move_the_cursor() -> None:
    log = SessionLog(lambda: ("s", None, None), Redactor())
    evil = "x\n2026-01-01 ERROR forged\x1b[2J\u202e"
    log.write(logging.INFO, "agent", "agent.stderr", evil, {"name": evil, "list": [evil]})
    (line,) = log.lines
    assert line.message.isprintable()
    assert "\\n" in line.message
    assert str(line.fields["name"]).isprintable()
    log.write(logging.INFO, "agent", "agent.stderr", "y" * 100_000)
    assert len(log.lines[-1].message) < 5000


async def test_a_sandbox_of_the_callers_keeps_its_values_too() -> None:
    model = ScriptedModel([say("Hello.")])
    async with (
        Sandbox.create(MemoryProvider(), env={"MINE": CANARIES["env"]}) as sandbox,
        model,
        Session(sandbox, agent=agent(model)) as session,
    ):
        log: Any = session.log
        log.write(logging.INFO, "agent", "agent.stderr", f"{CANARIES['env']} {KEY}")
        assert session.log.lines[-1].message == "[MINE] [api_key]"
