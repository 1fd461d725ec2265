"""An agent in a sandbox: a result, the events as they happen, and a file from it.

With ANTHROPIC_API_KEY in the environment it talks to Claude; without, to a scripted model.
"""

import asyncio

import sandboxkit as sk
from sandboxkit.agents import ToolCall


async def main() -> None:
    async with sk.Session("docker") as session:
        result = await session.run("Write a haiku about walls to haiku.txt")
        print(result.text, result.turns, result.cost_usd, result.latency.first_token_s)

        async for event in session.stream("Count its words with wc"):
            if isinstance(event, ToolCall):
                print("calls", event.name, event.input)

        await session.sandbox.files.download("haiku.txt", "haiku.txt")


async def without_an_account() -> None:
    import os

    from sandboxkit.testing import ScriptedModel, call, say

    haiku = "No door, no window.\nThe work goes on behind it:\na wall that listens.\n"
    model = ScriptedModel(
        [
            call("Write", file_path="/work/haiku.txt", content=haiku),
            say("The haiku is in haiku.txt."),
            call("Bash", command="wc -w haiku.txt"),
            say("It has 14 words."),
        ]
    )
    async with model:
        os.environ["ANTHROPIC_BASE_URL"] = model.url
        await main()


if __name__ == "__main__":
    import os

    asyncio.run(main() if os.environ.get("ANTHROPIC_API_KEY") else without_an_account())
