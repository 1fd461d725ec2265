"""The real Claude Code CLI on this machine, with a sandbox for its tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_agent_sdk import SystemMessage, ToolResultBlock, UserMessage

from sandboxkit.testing import ScriptedModel, call, say
from tests.agents.places import Local, ask, result_of
from tests.cli.command import SANDBOXKIT, Cli
from tests.cli.mcp_client import until_gone

if TYPE_CHECKING:
    from claude_agent_sdk.types import McpStdioServerConfig


async def test_claude_code_works_in_a_sandbox(cli: Cli) -> None:
    model = ScriptedModel(
        [
            call("mcp__sandbox__write_file", path="f.py", content="print(6 * 7)"),
            call("mcp__sandbox__exec", command=["python3", "f.py"]),
            say("It is 42."),
        ]
    )
    server: McpStdioServerConfig = {
        "type": "stdio",
        "command": SANDBOXKIT[0],
        "args": [*SANDBOXKIT[1:], "mcp"],
        "env": cli.env(),
    }
    waiting = {"MCP_CONNECTION_NONBLOCKING": "false", "MCP_TIMEOUT": "60000"}
    async with Local(cli.cwd).client(model, mcp_servers={"sandbox": server}, env=waiting) as client:
        messages = await ask(client, "What is six by seven?")

    begun = next(m for m in messages if isinstance(m, SystemMessage) and m.subtype == "init")
    assert begun.data["mcp_servers"][0]["status"] == "connected"
    results = [
        block
        for message in messages
        if isinstance(message, UserMessage)
        for block in message.content
        if isinstance(block, ToolResultBlock)
    ]
    assert len(results) == 2
    assert "12 bytes" in str(results[0].content) or '"bytes_written":12' in str(results[0].content)
    assert "42" in str(results[1].content)
    assert result_of(messages).result == "It is 42."
    assert not (cli.cwd / "f.py").exists()  # it is in the sandbox
    await until_gone(cli)
