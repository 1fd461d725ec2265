"""What fails at a CLI in a sandbox fails as it does at a local one."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    CLIConnectionError,
    CLIJSONDecodeError,
    CLINotFoundError,
    ProcessError,
    ResultError,
)

from sandboxkit.agents.claude_code import SandboxTransport
from sandboxkit.errors import InvalidSpecError, PathNotFoundError, UnsupportedError
from sandboxkit.gateway.model.anthropic import Anthropic
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import Reply, ScriptedModel, call, say
from tests.agents.places import Inside, Local, ask, result_of

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = Anthropic(base_url="http://127.0.0.1:9")  # never asked

KILL_CLI = """
for one in /proc/[0-9]*; do
    case $(tr '\\0' ' ' < $one/cmdline 2>/dev/null) in
        */claude\\ --output-format*) kill -KILL ${one#/proc/};;
    esac
done
"""


async def stand_in(sandbox: Sandbox, script: str) -> str:
    """A program in the CLI's place that does what a test needs."""
    await sandbox.files.write("/work/cli", f"#!/usr/bin/env python3\n{script}\n", mode=0o755)
    return "/work/cli"


async def connected(sandbox: Sandbox, script: str, **fields: Any) -> SandboxTransport:
    options = ClaudeAgentOptions(cli_path=await stand_in(sandbox, script), **fields)
    transport = SandboxTransport(sandbox, options, upstream=NOWHERE)
    await transport.connect()
    return transport


async def test_a_cli_killed_in_the_middle(inside: Inside) -> None:
    model = ScriptedModel([Reply([say("one two")], stall_after_events=4)])
    async with inside.client(model) as client:
        await client.query("Count")
        await model.wait_until(lambda: model.requests)
        await inside.sandbox.sh(KILL_CLI)
        with pytest.raises(ProcessError) as raised:
            _ = [message async for message in client.receive_response()]
        assert raised.value.exit_code == -signal.SIGKILL
        with pytest.raises(CLIConnectionError, match=r"terminated process \(exit code: -9\)"):
            await client.query("Still there?")


async def test_an_unknown_conversation_fails_at_once_and_alike(
    inside: Inside, local: Local
) -> None:
    texts: list[str] = []
    for place in (inside, local):
        with pytest.raises(ResultError) as raised:
            async with place.client(
                ScriptedModel([]), resume="00000000-0000-4000-8000-000000000000"
            ):
                raise AssertionError("it has connected")
        texts.append(str(raised.value))

    assert "No conversation found" in texts[0]
    assert texts[0] == texts[1]


async def test_an_exit_code_and_whole_messages_before_it(sandbox: Sandbox) -> None:
    # U+2028 and its like do not end a line; a note of the CLI is no message; nor is a
    # message that is cut off; the bytes come in pieces that split characters.
    script = r"""
import os, sys, time
line = '{"type": "a", "text": "x\u2028y\x85z \u00e9\U0001f600"}\n[note]\n\n{"type": "b"}'
for byte in (line + '\n{"type": "c').encode(): os.write(1, bytes([byte]))
sys.exit(3)
"""
    transport = await connected(sandbox, script)
    stream = transport.read_messages()
    messages = [await anext(stream), await anext(stream)]
    with pytest.raises(ProcessError) as raised:
        await anext(stream)
    await transport.close()

    assert raised.value.exit_code == 3
    assert messages == [
        {"type": "a", "text": "x\u2028y\x85z \u00e9\U0001f600"},
        {"type": "b"},
    ]


@pytest.mark.parametrize("end", ["\\n", ""])
async def test_a_message_over_the_limit_ends_it(sandbox: Sandbox, end: str) -> None:
    script = f"""
import sys, time
sys.stdout.write('{{"text": "' + 'x' * 5000 + '"}}{end}')
sys.stdout.flush()
sys.stdin.read()
"""
    transport = await connected(sandbox, script, max_buffer_size=4000)
    with pytest.raises(CLIJSONDecodeError, match="maximum buffer size of 4000 bytes"):
        _ = [message async for message in transport.read_messages()]
    await transport.close()


async def test_a_broken_message_is_an_error(sandbox: Sandbox) -> None:
    transport = await connected(sandbox, "print('{\"type\": oops}')")
    with pytest.raises(CLIJSONDecodeError):
        _ = [message async for message in transport.read_messages()]
    await transport.close()


async def test_close_ends_all_that_the_cli_started(sandbox: Sandbox) -> None:
    # It ignores the end of its input and TERM, and so does what it starts, in a session of its own.
    script = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(987)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
print('{"type": "ready"}', flush=True)
while True: time.sleep(1)
"""
    transport = await connected(sandbox, script)
    assert await anext(transport.read_messages()) == {"type": "ready"}
    await transport.close()
    await transport.close()

    assert not await running(sandbox, "987")
    assert not await running(sandbox, "/work/cli")
    with pytest.raises(CLIConnectionError, match="not ready for writing"):
        await transport.write("{}\n")


async def test_close_ends_what_outlives_the_cli(sandbox: Sandbox) -> None:
    script = """
import subprocess, sys
child = [sys.executable, "-c", "import time; time.sleep(987)"]
subprocess.Popen(child, start_new_session=True, stdout=subprocess.DEVNULL)
print('{"type": "ready"}', flush=True)
sys.stdin.read()
"""
    transport = await connected(sandbox, script)
    assert await anext(transport.read_messages()) == {"type": "ready"}
    assert await running(sandbox, "987")
    await transport.close()

    assert not await running(sandbox, "987")


async def test_a_cancelled_close_ends_the_cli_all_the_same(sandbox: Sandbox) -> None:
    transport = await connected(sandbox, "import sys; sys.stdin.read(); print('{}', flush=True)")
    closing = asyncio.ensure_future(transport.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert not await running(sandbox, "/work/cli")


async def running(sandbox: Sandbox, what: str) -> bool:
    script = "for one in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $one; echo; done 2>/dev/null"
    lines = (await sandbox.sh(script)).text.splitlines()
    return any(what in line for line in lines if "/proc/[0-9]" not in line)


async def test_a_cancelled_write_is_written_whole(sandbox: Sandbox) -> None:
    script = """
import sys
sys.stdin.readline()
print('{"type": "begun"}', flush=True)
for line in sys.stdin: print('{"length": %d}' % len(line), flush=True)
"""
    transport = await connected(sandbox, script)
    await transport.write("first\n")
    messages = transport.read_messages()
    assert await anext(messages) == {"type": "begun"}
    large = asyncio.ensure_future(transport.write("x" * 8_000_000 + "\n"))
    await asyncio.sleep(0)
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    await transport.write("short\n")

    assert [await anext(messages), await anext(messages)] == [
        {"length": 8_000_001},
        {"length": 6},
    ]
    await transport.end_input()
    assert [message async for message in messages] == []
    await transport.close()


async def test_out_of_memory_is_said(sandbox: Sandbox) -> None:
    script = """
import sys
sys.stdin.readline()
held = [bytearray(b'x' * 2**20) for _ in range(3000)]
"""
    transport = await connected(sandbox, script)
    await transport.write("go\n")
    with pytest.raises(ProcessError, match="ran out of memory") as raised:
        _ = [message async for message in transport.read_messages()]
    assert raised.value.exit_code == -signal.SIGKILL
    await transport.close()


async def test_a_lost_sandbox_is_a_lost_connection(engine: str) -> None:
    async with Sandbox.create("docker") as sandbox:
        transport = await connected(sandbox, "import sys; sys.stdin.read()")
        await sandbox.destroy()
        with pytest.raises(CLIConnectionError, match="was lost"):
            _ = [message async for message in transport.read_messages()]
        with pytest.raises(CLIConnectionError):
            await transport.write("{}\n")
        await transport.close()


async def test_without_the_cli_the_remedy_is_named(engine: str) -> None:
    async with Sandbox.create("docker") as sandbox:
        transport = SandboxTransport(sandbox, upstream=NOWHERE)
        with pytest.raises(CLINotFoundError, match=r"claude_code_artifact\(\)"):
            await transport.connect()
        assert not transport.is_ready()
        await transport.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cwd": "/nowhere"}, "Working directory does not exist: /nowhere"),
        ({"cli_path": "/work/none"}, "no Claude Code CLI at /work/none"),
        ({"user": "nobody-of-this-name"}, "Failed to start Claude Code"),
    ],
)
async def test_what_is_not_in_the_sandbox(
    sandbox: Sandbox, fields: dict[str, Any], message: str
) -> None:
    transport = SandboxTransport(sandbox, ClaudeAgentOptions(**fields), upstream=NOWHERE)
    with pytest.raises(CLIConnectionError, match=message):
        await transport.connect()
    await transport.close()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"cwd": "here"}, InvalidSpecError, "cwd: 'here' must be an absolute path"),
        ({"add_dirs": ["../x"]}, InvalidSpecError, r"add_dirs: '\.\./x' must be an absolute"),
        ({"sandbox": {"enabled": True}}, UnsupportedError, "the sandbox around it is the wall"),
        ({"env": {"CLAUDE_CODE_OAUTH_TOKEN": "x"}}, UnsupportedError, "into the sandbox"),
        ({"env": {"ANTHROPIC_BASE_URL": "gopher://x"}}, InvalidSpecError, "its scheme is 'gopher'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    nowhere: Any = None
    with pytest.raises(error, match=message):
        SandboxTransport(nowhere, ClaudeAgentOptions(**fields))


async def test_files_of_the_host_are_brought_over(inside: Inside, tmp_path: Path) -> None:
    prompt, settings, servers = (tmp_path / name for name in ("prompt", "settings", "servers"))
    prompt.write_text("You are the prompt of a file.")
    settings.write_text('{"env": {"FROM_SETTINGS": "yes"}}')
    server = '{"command": "python3", "args": ["-c", "import sys; sys.stdin.read()"]}'
    servers.write_text(f'{{"mcpServers": {{"quiet": {server}}}}}')
    plugin = tmp_path / "my-plugin"
    (plugin / ".claude-plugin").mkdir(parents=True)
    (plugin / ".claude-plugin" / "plugin.json").write_text('{"name": "mine", "version": "1.0.0"}')
    (plugin / "commands").mkdir()
    (plugin / "commands" / "shout.md").write_text("Shout")

    model = ScriptedModel([call("Bash", command="echo from settings: $FROM_SETTINGS"), say("Ok.")])
    async with inside.client(
        model,
        system_prompt={"type": "file", "path": str(prompt)},
        settings=str(settings),
        mcp_servers=servers,
        plugins=[{"type": "local", "path": str(plugin)}],
        env={"MCP_TIMEOUT": "1000", "MCP_CONNECT_TIMEOUT_MS": "1000"},
        max_turns=3,
    ) as client:
        messages = await ask(client, "Look")
        status = await client.get_mcp_status()

    assert result_of(messages).result == "Ok."
    assert "You are the prompt of a file." in str(model.requests[0].system)
    assert "from settings: yes" in model.requests[1].tool_results[0].text
    assert [server["name"] for server in status["mcpServers"]] == ["quiet"]
    init: Any = messages[0]
    assert "mine" in [plugin["name"] for plugin in init.data["plugins"]]
    assert "mine:shout" in init.data["slash_commands"]


async def test_missing_files_of_the_host_are_named(sandbox: Sandbox) -> None:
    wrong: list[dict[str, Any]] = [
        {"settings": "/no/settings.json"},
        {"mcp_servers": "/no/servers.json"},
        {"system_prompt": {"type": "file", "path": "/no/prompt"}},
        {"plugins": [{"type": "local", "path": "/no/plugin"}]},
    ]
    for fields in wrong:
        options = ClaudeAgentOptions(**fields)
        client = ClaudeSDKClient(
            options, transport=SandboxTransport(sandbox, options, upstream=NOWHERE)
        )
        with pytest.raises(PathNotFoundError, match="is not on this machine"):
            await client.connect()


async def test_a_directory_that_is_not_in_the_sandbox_is_named(sandbox: Sandbox) -> None:
    options = ClaudeAgentOptions(add_dirs=["/tmp", "/no/such"])
    transport = SandboxTransport(sandbox, options, upstream=NOWHERE)
    with pytest.raises(InvalidSpecError, match="add_dirs: '/no/such' does not exist"):
        await transport.connect()
