"""An agent of one's own: the loop and a tool run here, its shell and editor in a sandbox.

With ANTHROPIC_API_KEY in the environment it talks to Claude; without, to a scripted model.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import sandboxkit as sk
from sandboxkit.agents import ToolCall, ToolResult

TICKETS = {7: "slug('Hello World') must be 'hello-world', and is 'hello world'."}


async def ticket(arguments: Mapping[str, Any]) -> str:
    return TICKETS[arguments["number"]]


SCHEMA = {
    "type": "object",
    "properties": {"number": {"type": "integer"}},
    "required": ["number"],
}


async def main() -> None:
    agent = sk.Messages(
        system="You mend what a ticket describes, in /work, and check that it is mended.",
        tools=[sk.Tool("ticket", "A ticket of the tracker.", SCHEMA, ticket)],
        max_turns=20,
    )
    async with sk.Session("docker", agent=agent) as session:
        await session.sandbox.files.write("slug.py", "def slug(text):\n    return text.lower()\n")
        async for event in session.stream("Mend ticket 7"):
            if isinstance(event, ToolCall):
                print("calls", event.name)
            elif isinstance(event, ToolResult) and event.is_error:
                print("failed:", event.text)
        check = ["python3", "-c", "from slug import slug; print(slug('Hello World'))"]
        print((await session.sandbox.exec(check)).text, session.usage.total_tokens, "tokens")


async def without_an_account() -> None:
    import os

    from sandboxkit.testing import ScriptedModel, call, say

    old, new = "text.lower()", "text.lower().replace(' ', '-')"
    model = ScriptedModel(
        [
            call("ticket", number=7),
            call("bash", command="cat slug.py"),
            call(
                "str_replace_based_edit_tool",
                command="str_replace",
                path="slug.py",
                old_str=old,
                new_str=new,
            ),
            call("bash", command="python3 -c \"from slug import slug; print(slug('A B'))\""),
            say("Ticket 7 is mended."),
        ]
    )
    async with model:
        os.environ["ANTHROPIC_BASE_URL"] = model.url
        await main()


if __name__ == "__main__":
    import os

    asyncio.run(main() if os.environ.get("ANTHROPIC_API_KEY") else without_an_account())
