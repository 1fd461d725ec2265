"""A program that uses `claude-agent-sdk` itself, put into a sandbox by one argument.

The tool runs here, on the host; Claude Code and its commands run in the sandbox.
With ANTHROPIC_API_KEY in the environment it talks to Claude; without, to a scripted model.
"""

import asyncio
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    create_sdk_mcp_server,
    tool,
)

import sandboxkit as sk
from sandboxkit.agents.claude_code import SandboxTransport, claude_code_artifact


@tool("price", "The price of an article, in euros", {"article": str})
async def price(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": f"{arguments['article']}: 12.50"}]}


async def main() -> None:
    options = ClaudeAgentOptions(
        permission_mode="bypassPermissions",
        mcp_servers={"shop": create_sdk_mcp_server("shop", tools=[price])},
    )
    async with sk.Sandbox.create("docker", artifacts=[await claude_code_artifact()]) as sandbox:
        transport = SandboxTransport(sandbox, options)
        async with ClaudeSDKClient(options, transport=transport) as client:
            await client.query("Look up the price of a lamp and write it to price.txt")
            async for message in client.receive_response():
                if isinstance(message, AssistantMessage):
                    print(message.content)
        print(await sandbox.files.read_text("price.txt"))


async def without_an_account() -> None:
    import os

    from sandboxkit.testing import ScriptedModel, call, say

    model = ScriptedModel(
        [
            call("mcp__shop__price", article="lamp"),
            call("Write", file_path="/work/price.txt", content="lamp: 12.50\n"),
            say("A lamp costs 12.50 euros."),
        ]
    )
    async with model:
        os.environ["ANTHROPIC_BASE_URL"] = model.url
        await main()


if __name__ == "__main__":
    import os

    asyncio.run(main() if os.environ.get("ANTHROPIC_API_KEY") else without_an_account())
