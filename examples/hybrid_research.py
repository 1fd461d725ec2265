"""Hybrid: the machine goes, the conversation and the files stay, and work goes on another day.

    python hybrid_research.py                  # the first day: it prints the session's id
    python hybrid_research.py ID [BACKEND]     # the next day; on another backend, if you like

The store is the default one, in the user's state directory; STORE names another, such as
postgresql://user@host/name. With ANTHROPIC_API_KEY in the environment it talks to Claude; without,
to a scripted model.
"""

import asyncio
import os
import sys

import sandboxkit as sk
import scripted
from sandboxkit.agents import Finished, ToolCall

LETTERS = {
    "1871-anna.txt": "The bridge stood as ever, its stone older than anybody here.\n",
    "1872-mayor.txt": "The flood of this spring has taken what lay on the piers.\n",
    "1874-jakob.txt": "We crossed the bridge, of good oak, as it always was.\n",
}


async def first_day(store: sk.Store) -> None:
    async with sk.Session("docker", store=store) as session:
        for name, text in LETTERS.items():
            await session.sandbox.files.write(f"letters/{name}", text)
        result = await session.run(
            "Read the letters in letters/, and write to notes.md what they say of the bridge: "
            "what it was made of, and where they contradict each other."
        )
        print(result.text)
    # The machine is gone. A crash would have cost the files of the last seconds at most.
    print("session", session.id)


async def another_day(store: sk.Store, session_id: str, backend: str | None) -> None:
    async with sk.Session.resume(session_id, store=store, provider=backend) as session:
        print("on", session.sandbox.info.provider)
        async for event in session.stream(
            "Think about what was left open yesterday, and add a conclusion to notes.md."
        ):
            if isinstance(event, ToolCall):
                print("calls", event.name)
            elif isinstance(event, Finished):
                print(event.result.text)
        print(await session.sandbox.files.read_text("notes.md"))


async def main() -> None:
    async with sk.Store(os.environ.get("STORE")) as store:
        if len(sys.argv) == 1:
            await first_day(store)
        else:
            await another_day(store, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
        for record in await store.list():
            files = record.snapshot.files if record.snapshot else 0
            print(record.id, record.state, "on", record.backend, "with", files, "files")


if __name__ == "__main__":
    asyncio.run(scripted.play(main, scripted.RESEARCH))
