"""Several sessions in one sandbox: own users, own budgets, own tokens, and own ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions

import sandboxkit as sk
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.claude_code.arguments import unseen
from sandboxkit.agents.messages import Messages
from sandboxkit.errors import (
    AgentError,
    ExecStartError,
    InvalidSpecError,
    SandboxClosedError,
    UnsupportedError,
)
from sandboxkit.providers.registry import providers
from sandboxkit.testing import ModelRequest, Reply, ScriptedModel, call, say
from sandboxkit.testing.memory import MemoryProvider
from sandboxkit.testing.scripted_model.steps import Step
from tests.agents.messages_agent import KEY, STALLED, agent

# What a neighbour looks for: all that Linux shows, and the ports of loopback.
LOOK = """
import os, glob, re, sys, urllib.error, urllib.request
seen = b""
places = [path for name in ("environ", "cmdline", "maps", "mem", "stat", "fd/*", "cwd/*", "root/*")
          for path in glob.glob("/proc/[0-9]*/" + name)]
places += glob.glob("/home/sandboxkit/*/*") + glob.glob("/tmp/*") + glob.glob("/tmp/*/*")
for path in places:
    if not os.path.isfile(path):
        continue
    try:
        seen += open(path, "rb").read(1 << 20)
    except OSError:
        pass
for word in sys.argv[1:]:
    print(word[::-1], word[::-1].encode() in seen)
mine = os.environ["ANTHROPIC_API_KEY"]
own = int(re.search(r":(\\d+)/", os.environ["ANTHROPIC_BASE_URL"]).group(1))
ports = {int(line.split()[1].split(":")[1], 16) for line in open("/proc/net/tcp").readlines()[1:]
         if line.split()[3] == "0A"} - {own}
for port in sorted(ports):
    for token in (mine, "sandboxkit-" + "a" * 32, ""):
        request = urllib.request.Request("http://127.0.0.1:%d/v1/messages" % port, b"{}",
            {"x-api-key": token, "content-type": "application/json"})
        try:
            print("answer", urllib.request.urlopen(request, timeout=20).status)
        except urllib.error.HTTPError as error:
            print("answer", error.code)
"""


@pytest.fixture
async def plain(engine: str) -> AsyncIterator[sk.Sandbox]:
    """Without the CLI; enough for agents whose loop is on the host."""
    async with sk.Sandbox.create("docker") as sandbox:
        yield sandbox


def shared(sandbox: sk.Sandbox, model: ScriptedModel, user: str, **fields: Any) -> sk.Session:
    return sk.Session(sandbox=sandbox, user=user, agent=agent(model), **fields)


async def test_the_real_agent_and_what_it_can_learn_of_another(sandbox: sk.Sandbox) -> None:
    options = ClaudeAgentOptions(
        permission_mode="bypassPermissions",
        system_prompt="The word is xylophone.",
        settings='{"env": {"SETTING": "the-setting-of-alice"}}',
        mcp_servers={
            "tool": {"type": "stdio", "command": "/bin/false", "env": {"K": "the-key-of-alice"}}
        },
    )
    secrets = ("xylophone", "the-setting-of-alice", "the-key-of-alice", "the-answer-of-alice")

    def spy(request: ModelRequest) -> Step:
        if len(mallorys.requests) > 1:
            return say("I have tried.")
        return call("Bash", command="python3 look.py " + " ".join(s[::-1] for s in secrets))

    alices = ScriptedModel(
        [
            call("Write", file_path="notes", content="the-answer-of-alice"),
            call("Bash", command="echo $SETTING; pwd; id -un; echo $CLAUDE_CONFIG_DIR"),
            say("Done."),
        ]
    )
    mallorys = ScriptedModel(spy)
    async with alices, mallorys, AsyncExitStack() as stack:
        alice = sk.Session(
            "docker", sandbox=sandbox, user="alice", agent=ClaudeCode(options, model_url=alices.url)
        )
        mallory = sk.Session(sandbox=sandbox, agent=ClaudeCode(model_url=mallorys.url))
        await stack.enter_async_context(alice)
        await stack.enter_async_context(mallory)
        assert (await alice.run("Work")).text == "Done."
        said = alices.requests[-1].tool_results[-1].text.split()
        assert said[:3] == ["the-setting-of-alice", alice.sandbox.workdir, "alice"]
        assert said[3].startswith("/home/sandboxkit/alice/home/")
        assert "xylophone" in str(alices.requests[0].body)
        await mallory.sandbox.files.write("look.py", LOOK)

        assert (await mallory.run("Spy")).text == "I have tried."

        found = mallorys.requests[-1].tool_results[-1].text
        for word in secrets:
            assert f"{word} False" in found
        answers = [line for line in found.splitlines() if line.startswith("answer")]
        assert answers == ["answer 401"] * 3, found
        assert alice.meter.total.requests == len(alices.requests) + len(alices.side_requests)
        assert (await alice.sandbox.files.read_text("notes")) == "the-answer-of-alice"
    running = (await sandbox.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).text
    assert "claude" not in running


async def test_what_others_must_not_see_is_no_argument() -> None:
    put: dict[str, bytes] = {}

    async def upload(name: str, data: bytes) -> str:
        put[name] = data
        return f"/mine/{name}"

    presets = ["--append-system-prompt", "a word", "--settings", "/a/file", "--model", "x"]
    argv = ["cli", "--system-prompt", "", *presets, "--mcp-config", '{"a": "key"}', "-p"]
    assert await unseen(argv, upload) == [
        *(
            "cli",
            "--system-prompt",
            "",
            "--append-system-prompt-file",
            "/mine/append-system-prompt",
        ),
        *("--settings", "/a/file", "--model", "x", "--mcp-config", "/mine/mcp-config.json", "-p"),
    ]
    assert put == {"append-system-prompt": b"a word", "mcp-config.json": b'{"a": "key"}'}


async def test_one_dies_and_one_is_interrupted_and_the_others_go_on(sandbox: sk.Sandbox) -> None:
    """All four are in the middle of a turn; the real agent is the one that is killed."""
    dying, interrupted = ScriptedModel([STALLED, say("Back.")]), ScriptedModel([STALLED])
    waiting = [
        ScriptedModel(
            [call("bash", command="until [ -e go ]; do sleep 0.05; done; id -un"), say("Done.")]
        )
        for _ in range(2)
    ]
    async with AsyncExitStack() as stack:
        for model in (dying, interrupted, *waiting):
            await stack.enter_async_context(model)
        mallory = sk.Session(sandbox=sandbox, user="mallory", agent=ClaudeCode(model_url=dying.url))
        others = [
            shared(sandbox, model, user)
            for model, user in zip((interrupted, *waiting), ("alice", "bob", "carol"), strict=True)
        ]
        for session in (mallory, *others):
            await stack.enter_async_context(session)
        runs = [asyncio.ensure_future(session.run("Go")) for session in (mallory, *others)]
        for model in (dying, interrupted, *waiting):
            await model.wait_until(lambda: len(model.requests) == 1)  # noqa: B023 - waited for here

        with contextlib.suppress(ExecStartError):  # what starts its programs dies with it
            await mallory.sandbox.sh("kill -9 -1")
        with pytest.raises(AgentError):
            await runs[0]
        await others[0].interrupt()
        assert (await runs[1]).stop_reason == "interrupted"

        assert not runs[2].done()
        for session in others[1:]:
            await session.sandbox.files.write("go", "")
        for run, model, name in zip(runs[2:], waiting, ("bob", "carol"), strict=True):
            assert (await run).text == "Done."
            assert model.requests[-1].tool_results[-1].text.strip() == name
        assert (await mallory.run("Are you there?")).text == "Back."


async def test_a_session_that_ends_in_the_middle_leaves_the_others_alone(
    plain: sk.Sandbox,
) -> None:
    first, second = ScriptedModel([STALLED]), ScriptedModel([STALLED, say("Done.")])
    async with first, second, shared(plain, second, "bob") as bob:
        async with shared(plain, first, "alice") as alice:
            run = asyncio.ensure_future(alice.run("Go"))
            other = asyncio.ensure_future(bob.run("Go"))
            await first.wait_until(lambda: first.requests)
            await second.wait_until(lambda: second.requests)
        with pytest.raises(SandboxClosedError):
            await run
        assert not other.done()
        await bob.interrupt()
        assert (await other).stop_reason == "interrupted"
        assert (await bob.run("Go on")).text == "Done."
        with pytest.raises(SandboxClosedError):
            _ = alice.sandbox


async def test_a_spent_budget_stops_its_own_session_only(plain: sk.Sandbox) -> None:
    def again(_: ModelRequest) -> Step:
        return Reply([call("bash", command="true")], input_tokens=100, output_tokens=10)

    poor, rich = ScriptedModel(again), ScriptedModel([call("bash", command="true"), say("Done.")])
    async with (
        poor,
        rich,
        shared(plain, poor, "poor", budget=sk.Budget(requests=2)) as spent,
        shared(plain, rich, "rich", budget=sk.Budget(requests=2)) as other,
    ):
        assert (await spent.run("Go on for ever")).stop_reason == "max_budget"
        assert (await other.run("Go")).text == "Done."
        assert (spent.meter.total.requests, other.meter.total.requests) == (2, 2)


async def test_a_name_that_is_in_use_is_refused_and_the_first_goes_on(plain: sk.Sandbox) -> None:
    first, second = ScriptedModel([say("Done.")]), ScriptedModel([say("Never.")])
    async with first, second, shared(plain, first, "alice") as alice:
        late = shared(plain, second, "alice")
        with pytest.raises(InvalidSpecError, match="another session is the user alice"):
            await late.__aenter__()
        assert late.states.now == "failed"
        assert (await alice.run("Go")).text == "Done."
        assert not second.requests


async def test_agents_meet_in_a_shared_folder(plain: sk.Sandbox) -> None:
    board = "/shared/board"
    white = ScriptedModel([call("bash", command=f"echo e4 >> {board}/moves"), say("Your move.")])
    black = ScriptedModel(
        [call("bash", command=f"echo e5 >> {board}/moves; cat {board}/moves"), say("Yours.")]
    )
    async with (
        white,
        black,
        shared(plain, white, "white", shared_folders=[board]) as one,
        shared(plain, black, "black", shared_folders=[board]) as two,
    ):
        await one.run("Open")
        await two.run("Answer")
        assert black.requests[-1].tool_results[-1].text.split() == ["e4", "e5"]
        assert await one.sandbox.files.read_text(f"{board}/moves") == "e4\ne5\n"


async def test_what_contradicts_a_shared_sandbox_is_refused(plain: sk.Sandbox) -> None:
    docker = providers.make("docker")
    sk.Session(docker, sandbox=plain)
    await docker.aclose()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"provider": "e2b"}, "this one is on 'docker'"),
        ({"provider": ["docker"]}, "this one is on 'docker'"),
        ({"provider": plain}, "this one is on 'docker'"),
        ({"cpu": 1}, r"no other field of one \(cpu\)"),
        ({"spec": sk.SandboxSpec()}, "no spec"),
        ({"secrets": [sk.Secret("A", "b", hosts=["c.example"])]}, "no secrets"),
        ({"store": "sqlite+aiosqlite:///x"}, "makes its own sandbox"),
        ({"user": "No Name"}, "no name for a user"),
        ({"shared_folders": ["board"]}, "not an absolute path"),
    ]
    for given, word in cases:
        with pytest.raises(InvalidSpecError, match=word):
            sk.Session(sandbox=plain, **given)
    with pytest.raises(InvalidSpecError, match="give sandbox="):
        sk.Session("docker", shared_folders=["/shared/board"])


async def test_where_there_is_no_root_it_is_said_before_anything_runs() -> None:
    async with sk.Sandbox.create(MemoryProvider()) as sandbox:
        with pytest.raises(UnsupportedError, match="the guest is not root here"):
            sk.Session(sandbox=sandbox, agent=Messages(api_key=KEY))
