"""A host of a named session with a store, which its test kills.

    python -m tests.session.storing_host '{"model": ..., "name": ..., "store": ..., ...}'

For each event of the turn it writes a line: what kind it is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.session import Session


@dataclass
class Wanted:
    """What the host is told.

    Attributes:
        model: Its URL.
        name: The session's.
        store: Its URL.
        journal: The file for the events.
        follow: Whether the turn was begun by a host before.
        takes: How many events it takes; with the last of them it is then busy for ever.
    """

    model: str
    name: str
    store: str
    journal: str
    follow: bool = False
    takes: int | None = None


def session_of(model: str, name: str, store: str) -> Session:
    """The session, as each of its hosts has it."""
    return Session("docker", agent=ClaudeCode(model_url=model), name=name, store=store, keep_s=600)


async def main(wanted: Wanted) -> None:
    async with session_of(wanted.model, wanted.name, wanted.store) as session:
        events = session.follow() if wanted.follow else session.stream("Go")
        taken = 0
        with Path(wanted.journal).open("a") as journal:  # noqa: ASYNC230
            async for event in events:
                journal.write(f"{type(event).__name__}\n")
                journal.flush()
                taken += 1
                if taken == wanted.takes:
                    break
            await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(Wanted(**json.loads(sys.argv[1]))))
