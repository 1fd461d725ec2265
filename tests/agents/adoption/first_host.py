"""A host that begins a turn, writes down what it has seen of it, and is killed by its test.

    python -m tests.agents.adoption.first_host '{"sandbox": ..., "model": ..., ...}'

For each event a line: what it is, and the position behind it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage
from claude_agent_sdk._internal.message_parser import parse_message

from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.claude_code.messages import events_of
from sandboxkit.agents.events import Event
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session

TRUTH = "/work/truth.jsonl"
CLI = "/work/claude"
TEE = f"""#!/bin/sh
said=$(mktemp -u) && mkfifo "$said"
tee -a {TRUTH} < "$said" &
/opt/sandboxkit/claude-code/claude "$@" > "$said"
code=$?
wait
exit $code
"""
"""A CLI that also writes down all that it says, so that a test can compare."""


@dataclass
class Wanted:
    """What the child is told."""

    sandbox: str
    model: str
    session: str
    journal: str
    follow: bool = False
    after: str | None = None


def agent(model_url: str, **fields: Any) -> ClaudeCode:
    given: dict[str, Any] = {"permission_mode": "bypassPermissions", "cli_path": CLI, **fields}
    options = ClaudeAgentOptions(**given)
    return ClaudeCode(options, model_url=model_url)


class Attached(Session):
    """A session in a sandbox that was there before."""

    async def _create(self) -> None:
        await super()._create()
        self._dialogue._lived = True  # pyright: ignore[reportPrivateUsage]

    async def let_go(self) -> None:
        await self._dialogue.detach()


def key(event: Event | Finished) -> str:
    """What tells an event from all others of the turn."""
    raw: Any = event.raw
    data: dict[str, Any] = getattr(raw, "data", {})
    name = getattr(raw, "uuid", None) or data.get("uuid")
    return f"{type(event).__name__} {name} {getattr(event, 'id', '')}"


def truth(text: str) -> list[str]:
    """The events of the turn in what the CLI has written."""
    return [key(event) for event in _events(text)]


def _events(text: str) -> Iterator[Any]:
    for line in text.split("\n"):
        data = json.loads(line) if line.startswith("{") else {"type": "control_response"}
        if str(data["type"]).startswith("control") or data.get("sdk_host_only"):
            continue
        message = parse_message(data)
        if isinstance(message, ResultMessage) and message.is_error and message.num_turns == 0:
            continue  # of a CLI that found no conversation to resume
        if isinstance(message, ResultMessage):
            yield Finished(message)
        elif message is not None:
            yield from events_of(message)


class Finished:
    def __init__(self, raw: object) -> None:
        self.raw = raw


async def main(wanted: Wanted) -> None:
    async with Sandbox.attach("docker", wanted.sandbox) as sandbox:
        kept: dict[str, Any] = {"resume" if wanted.follow else "id": wanted.session}
        session = Attached(sandbox, agent=agent(wanted.model).durable(), **kept)
        async with session:
            stream = session.follow(wanted.after) if wanted.follow else session.stream("Go")
            with Path(wanted.journal).open("a") as journal:  # noqa: ASYNC230
                async for event in stream:
                    journal.write(json.dumps([key(event), stream.position]) + "\n")
                    journal.flush()
            await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(Wanted(**json.loads(sys.argv[1]))))
