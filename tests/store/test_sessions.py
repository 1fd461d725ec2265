"""Sessions that go on in another sandbox: conversation, files, spec, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from claude_agent_sdk import ClaudeAgentOptions, InMemorySessionStore

from sandboxkit.agents import Event, Notice
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.messages import Messages
from sandboxkit.agents.messages.conversation import MessagesConversation
from sandboxkit.errors import InvalidSpecError, StoreError, UnsupportedError
from sandboxkit.gateway.secrets import Secret
from sandboxkit.providers.base import Capabilities
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.store import Store, Workspace
from sandboxkit.store.blobs import path_of
from sandboxkit.testing import MemoryProvider, ModelRequest, ScriptedModel, call, say
from tests.agents.messages_agent import KEY, agent

CANARIES = ("canary-of-the-env", "canary-of-the-secret", "canary-of-the-key")
UNKNOWN = "12345678-1234-4234-8234-123456789abc"


@pytest.fixture
async def store(engine: str, url: str, tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(url, files=tmp_path / "files") as store:
        yield store


@pytest.fixture
async def local(engine: str, tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


def said(request: ModelRequest) -> str:
    return json.dumps([message.model_dump() for message in request.messages])


def messages_of(session: Session) -> list[dict[str, Any]]:
    assert isinstance(session.conversation, MessagesConversation)
    return session.conversation.messages


async def content(sandbox: Sandbox) -> str:
    script = "find . | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum"
    return (await sandbox.sh(script, check=True)).text


MESS = """
mkdir -p src/deep && head -c 5000000 /dev/urandom > src/deep/data && ln -s deep/data src/link
printf 'x\\000y' > 'odd name' && chmod 700 'odd name' && rm -f gone && echo done
"""


async def test_the_messages_agent_goes_on(store: Store) -> None:
    model = ScriptedModel([call("bash", command=MESS), say("Made."), say("As I said.")])
    async with model:
        async with Session("docker", agent=agent(model), store=store) as one:
            await one.run("Make a mess")
            before = await content(one.sandbox)
        record = await store.get(one.id)
        assert (record.state, record.agent, record.backend) == ("saved", "messages", "docker")
        assert record.snapshot is not None
        assert record.snapshot.bytes == 5_000_003
        async with Session.resume(one.id, store=store, agent=agent(model)) as two:
            assert two.id == one.id
            assert await content(two.sandbox) == before
            await two.run("What did you do?")
    assert "Make a mess" in said(model.requests[2])
    assert "Made." in said(model.requests[2])


async def test_claude_code_goes_on(store: Store) -> None:
    model = ScriptedModel([call("Bash", command=MESS), say("A violin."), say("As I said.")])
    async with model:
        mine = ClaudeCode(model_url=model.url)
        async with Session("docker", agent=mine, store=store) as one:
            await one.run("Name an instrument")
            before = await content(one.sandbox)
        async with Session.resume(one.id, store=store, agent=mine) as two:
            assert await content(two.sandbox) == before
            result = await two.run("Which one?")
    assert result.session_id == two.id == one.id
    assert "A violin." in said(model.requests[-1])


async def test_a_fork_twice(local: Store) -> None:
    model = ScriptedModel(
        [
            *(call("Bash", command="echo 1 > a"), say("one")),
            *(call("Bash", command="echo 2 >> a"), say("it is 2")),
            *(call("Bash", command="echo 3 >> a"), say("it is 3")),
            say("still one"),
        ]
    )
    async with model:
        mine = ClaudeCode(model_url=model.url)
        async with Session("docker", agent=mine, store=local) as first:
            await first.run("Begin")
        ids: list[str] = []
        for number in "23":
            async with Session.resume(first.id, store=local, agent=mine, fork=True) as fork:
                result = await fork.run(f"Go {number}")
                assert result.session_id == fork.id
                assert await fork.sandbox.files.read_text("a") == f"1\n{number}\n"
                ids.append(fork.id)
        async with Session.resume(first.id, store=local, agent=mine) as again:
            assert await again.sandbox.files.read_text("a") == "1\n"
            await again.run("And you?")
    assert len({first.id, *ids}) == 3
    assert "Begin" in said(model.requests[4])
    for text in ("Go 2", "Go 3"):
        assert text not in said(model.requests[-1])
    assert "Go 2" not in said(model.requests[4])
    assert (await local.get(ids[0])).parent == first.id


async def test_two_at_once_do_not_meet(store: Store) -> None:
    async def one(word: str) -> tuple[str, str]:
        model = ScriptedModel([call("bash", command=f"echo {word} > {word}"), say(word)])
        async with model, Session("docker", agent=agent(model), store=store) as session:
            await session.run(word)
        return session.id, word

    async def again(session_id: str, word: str) -> None:
        model = ScriptedModel([say("yes")])
        async with (
            model,
            Session.resume(session_id, store=store, agent=agent(model)) as session,
        ):
            assert [info.name for info in await session.sandbox.files.list()] == [word]
            await session.run("Well?")
        assert word in said(model.requests[0])

    made = await asyncio.gather(one("apple"), one("pear"))
    await asyncio.gather(*(again(*each) for each in made))


async def test_nothing_secret_is_stored(local: Store, tmp_path: Path) -> None:
    env, secret, key = CANARIES
    model = ScriptedModel([call("Bash", command="echo $TOKEN > placeholder"), say("yes")])
    async with model:
        hosts = ["api.example.com"]
        fields: dict[str, Any] = {
            "agent": ClaudeCode(model_url=model.url, api_key=key),
            "env": {"GIVEN": env},
            "secrets": [Secret("TOKEN", secret, hosts=hosts)],
            "network": {"mode": "allow", "hosts": hosts},
        }
        async with Session("docker", store=local, **fields) as session:
            await session.run("Go")
        record = await local.get(session.id)
        assert (record.spec["env"], record.spec["secrets"]) == (["GIVEN"], ["TOKEN"])
        lacking: dict[str, Any] = {"env": {}, "secrets": []}
        for name, nothing in lacking.items():
            lacks: Any = {**without_network(fields), name: nothing}
            with pytest.raises(UnsupportedError, match=f"{name}: the session had"):
                await Session.resume(session.id, store=local, **lacks).__aenter__()
        given: Any = {**without_network(fields), "env": {"GIVEN": "new"}}
        async with Session.resume(session.id, store=local, **given) as again:
            assert (await again.sandbox.sh("echo $GIVEN")).text == "new\n"
            policy = again.sandbox.network.policy
            assert (policy.mode, list(policy.hosts)) == ("allow", hosts)
    everything = "".join(stored(tmp_path))
    assert "placeholder" in everything
    assert not [canary for canary in CANARIES if canary in everything]


def without_network(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "network"}


def stored(top: Path) -> Iterator[str]:
    """All bytes of a store, also of what it has packed."""
    for file in top.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            if "blobs" in file.parts:
                data = zstandard.ZstdDecompressor().decompress(data)
            yield data.decode("latin-1")


async def test_the_spec_is_applied_again_or_refused(local: Store) -> None:
    model = ScriptedModel([])
    async with model:
        given: dict[str, Any] = {"memory_gib": 0.5, "workdir": "/elsewhere"}
        async with Session("docker", agent=agent(model), store=local, **given) as session:
            pass
        async with Session.resume(session.id, store=local, agent=agent(model)) as again:
            effective = again.sandbox.info.effective
            assert (effective.memory_gib, effective.workdir) == (0.5, "/elsewhere")
        with pytest.raises(UnsupportedError, match=r"resources\.memory_gib=0\.5 cannot"):
            await Session.resume(
                session.id, store=local, agent=agent(model), provider=MemoryProvider()
            ).__aenter__()
        with pytest.raises(UnsupportedError, match="image='template:x' is one of e2b's"):
            await Session.resume(
                session.id, store=local, agent=agent(model), image="template:x"
            ).__aenter__()
        with pytest.raises(UnsupportedError, match="agent: the session was with 'messages'"):
            await Session.resume(session.id, store=local, agent="claude-code").__aenter__()


async def test_a_host_that_died_before_there_was_a_sandbox(local: Store, tmp_path: Path) -> None:
    """The session is in the store already: it begins with its resumption, as it was meant."""
    script = (
        "import asyncio, os, sys\n"
        "from sandboxkit.agents.messages import Messages\n"
        "from sandboxkit.sandbox import Sandbox\n"
        "from sandboxkit.session import Session\n"
        "Sandbox.create = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "mine = Messages(model_url='http://127.0.0.1:9', api_key='x')\n"
        "session = Session('docker', agent=mine, store=sys.argv[1], id=sys.argv[2],\n"
        "    network='none', memory_gib=0.5)\n"
        "asyncio.run(session.__aenter__())\n"
    )
    url = f"sqlite:///{tmp_path}/store.db"
    host = await asyncio.create_subprocess_exec(sys.executable, "-c", script, url, UNKNOWN)
    assert await host.wait() == -signal.SIGKILL
    async with ScriptedModel([say("hello")]) as model:
        async with Session.resume(UNKNOWN, store=local, agent=agent(model)) as session:
            assert session.sandbox.network.policy.mode == "none"
            assert session.sandbox.info.effective.memory_gib == 0.5
            assert (await session.run("Begin")).text == "hello"
    assert (await local.get(UNKNOWN)).spec["spec"]["workdir"] == "/work"


async def test_on_another_backend(local: Store) -> None:
    """From Docker into memory; it has no Python, so that its own last state is not saved."""
    model = ScriptedModel([call("bash", command="printf 'a\\000b' > f"), say("yes"), say("I did")])
    async with model:
        async with Session("docker", agent=agent(model), store=local) as session:
            await session.run("Go")
        mine = agent(model, bash=False)
        bare = Session.resume(session.id, store=local, agent=mine, provider=MemoryProvider())
        with pytest.raises(UnsupportedError, match="network='none' cannot be had"):
            await bare.__aenter__()
        memory = MemoryProvider(capabilities=Capabilities("none", network=frozenset({"none"})))
        resumed = Session.resume(session.id, store=local, agent=mine, provider=memory)
        with pytest.raises(StoreError, match="no python3"):  # noqa: PT012
            async with resumed as again:
                assert again.sandbox.info.provider == "memory"
                assert await again.sandbox.files.read("f") == b"a\0b"
                assert (await again.run("And?")).text == "I did"
    record = await local.get(session.id)
    assert (record.state, record.backend) == ("failed", "memory")
    assert record.snapshot is not None, "what was saved before is kept"


async def test_damage_is_told_and_leaves_nothing(local: Store, tmp_path: Path) -> None:
    model = ScriptedModel([call("bash", command="echo precious > f"), say("yes")])
    async with model:
        async with Session("docker", agent=agent(model), store=local) as session:
            await session.run("Go")
        snapshot = (await local.get(session.id)).snapshot
        assert snapshot is not None
        (listed,) = snapshot.manifest
        pieces = [file for file in (tmp_path / "files").rglob("*") if file.is_file()]
        (piece,) = [file for file in pieces if file != tmp_path / "files" / path_of(listed)]
        for damaged in (piece, tmp_path / "files" / path_of(listed)):
            kept = damaged.read_bytes()
            damaged.write_bytes(zstandard.compress(b"something else"))
            with pytest.raises(StoreError, match="does not hold what was stored") as bad:
                await Session.resume(session.id, store=local, agent=agent(model)).__aenter__()
            assert bad.value.code == "damaged"
            damaged.write_bytes(kept)
        assert await local.sweep(older_s=0) == 0
        async with Session.resume(session.id, store=local, agent=agent(model)) as again:
            assert await again.sandbox.files.read_text("f") == "precious\n"
        await local.delete(session.id)
        assert await local.sweep(older_s=0) == 2


async def test_who_resumes_takes_over(local: Store) -> None:
    model = ScriptedModel([say("one"), say("two"), say("three")])
    async with model:
        old = Session("docker", agent=agent(model), store=local)
        events: list[Event] = []
        with pytest.raises(StoreError, match="resumed elsewhere") as refused:  # noqa: PT012
            async with old:
                await old.run("first")
                async with Session.resume(old.id, store=local, agent=agent(model)) as new:
                    await new.run("second")
                    events += [event async for event in old.stream("late")]
        assert refused.value.code == "taken_over"
        (notice,) = [e for e in events if isinstance(e, Notice) and e.kind == "not_saved"]
        assert "resumed elsewhere" in str(notice.data["error"])
        async with Session.resume(old.id, store=local, agent=agent(model)) as again:
            messages = json.dumps(messages_of(again))
    assert "second" in messages
    assert "late" not in messages


async def test_an_outage_of_the_store_loses_nothing(local: Store, tmp_path: Path) -> None:
    """The folder of the database cannot be written for a while."""
    model = ScriptedModel([say("one"), say("two")])
    database = tmp_path / "store.db"
    async with model:
        async with Session("docker", agent=agent(model), store=local) as session:
            await session.run("first")
            await local.aclose()
            away = database.rename(tmp_path / "away.db")
            database.mkdir()
            events = [event async for event in session.stream("second")]
            assert [e.kind for e in events if isinstance(e, Notice)] == ["not_saved"]
            with pytest.raises(StoreError):
                await session.save()
            database.rmdir()
            away.rename(database)
            await session.save()
        async with Session.resume(session.id, store=local, agent=agent(model)) as again:
            messages = messages_of(again)
    texts = [message["content"][0]["text"] for message in messages]
    assert texts == ["first", "one", "second", "two"]


async def test_what_cannot_be(local: Store, engine: str) -> None:
    model = ScriptedModel([])
    async with model:
        with pytest.raises(StoreError, match="There is no session") as unknown:
            await Session.resume(UNKNOWN, store=local, agent=agent(model)).__aenter__()
        assert unknown.value.code == "no_session"
        async with Session("docker", agent=agent(model), store=local, id=UNKNOWN):
            pass
        with pytest.raises(StoreError, match="already"):
            await Session("docker", agent=agent(model), store=local, id=UNKNOWN).__aenter__()
        assert len(await local.list()) == 1
        options = ClaudeAgentOptions(session_store=InMemorySessionStore())
        for both in (ClaudeCode(options, model_url=model.url), Messages(store="x", api_key=KEY)):
            with pytest.raises(InvalidSpecError, match="not to both"):
                await Session("docker", agent=both, store=local).__aenter__()
        assert len(await local.list()) == 1, "what has never run is not kept"
    with pytest.raises(InvalidSpecError, match="name a provider"):
        Session(None)
    with pytest.raises(InvalidSpecError, match="give a store as well"):
        Session("docker", workspace=Workspace())


DYING = """
import asyncio, sys
from sandboxkit.agents.messages import Messages
from sandboxkit.session import Session
from sandboxkit.store import Workspace

async def main():
    url, model, every = sys.argv[1:]
    mine = Messages(model_url=model, api_key="the-real-key")
    rules = Workspace(every_s=float(every) or None)
    async with Session("docker", agent=mine, store=url, workspace=rules) as session:
        print(session.id, session.sandbox.id, flush=True)
        n = 0
        while True:
            await session.run(f"prompt {n}")
            print(n, flush=True)
            n += 1

asyncio.run(main())
"""


@pytest.mark.parametrize("every_s", [0, 0.05])
async def test_a_host_that_is_killed(engine: str, url: str, tmp_path: Path, every_s: float) -> None:
    """Whatever it was doing: the last acknowledged message is there, and whole files.

    Of saves between prompts alone (0), they are those that a prompt had ended with.
    """
    command = "head -c 300000 /dev/urandom > data; sleep 0.1; sha256sum data > sum"
    steps = [step for _ in range(60) for step in (call("bash", command=command), say("done"))]
    model = ScriptedModel([*steps, say("on")])
    files = {"XDG_STATE_HOME": str(tmp_path / "state")}
    async with model:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", DYING, url, model.url, str(every_s)),
            stdout=subprocess.PIPE,
            env={**os.environ, **files, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert child.stdout is not None
        session_id, sandbox_id = (await child.stdout.readline()).decode().split()
        last = -1
        while last < 4:
            last = int(await child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = (await child.stdout.read()).split()
        last = int(rest[-1]) if rest else last
        await child.wait()
        where = tmp_path / "state" / "sandboxkit" / "files"
        beside = None if url.startswith("sqlite") else where
        async with Store(url, files=beside) as store:
            async with Session.resume(session_id, store=store, agent=agent(model)) as session:
                messages = json.dumps(messages_of(session))
                assert f"prompt {last}" in messages
                if not every_s:
                    assert (await session.sandbox.sh("sha256sum -c sum")).exit_code == 0
                elif "data" in {info.name for info in await session.sandbox.files.list()}:
                    assert (await session.sandbox.files.stat("data")).size <= 300_000
    provider = DockerProvider()
    await provider.destroy(sandbox_id)  # its lease still runs
    await provider.aclose()
