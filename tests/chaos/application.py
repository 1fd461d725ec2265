"""An application with hybrid sessions, as a process of its own: what `hybrid.py` disturbs.

It asks each session for so many prompts, writes down each that was answered (its own record,
which outlives it), and takes up whatever fails, for as long as it lives. Started again, it goes
on by its record and its store. Its standard input takes `cut` and `clock SECONDS`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import random
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandboxkit.agents.base import Agent
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.messages import Messages
from sandboxkit.errors import SandboxError, StoreError
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.providers.registry import providers
from sandboxkit.session import Session
from sandboxkit.store import Store, Workspace
from sandboxkit.testing.conformance.wires import WiredProvider

LEASE_S = 8.0
AGAIN_S = 0.2
STUCK_S = 240.0
SHOWN = "tail -n +2 work | sha256sum | cut -c1-64; head -2 work"
real_time = time.time
moved = [0.0]


@dataclass(frozen=True)
class Order:
    """What the application shall do; the same for each of its lives.

    Attributes:
        backend: A provider's name, or the address of a Docker engine.
        agent: `messages` or `claude-code`.
        model: The URL of the scripted model.
        directory: Of the store and the records.
        sessions: Ids of the sessions, by the names of their records.
        prompts: How many of each shall be answered.
    """

    backend: str
    agent: str
    model: str
    directory: str
    sessions: dict[str, str]
    prompts: int


class Record:
    """What the application itself knows of one session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: list[dict[str, Any]] = []
        if path.exists():
            self.entries = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, **entry: object) -> None:
        entry["at"] = round(time.monotonic(), 1)
        self.entries.append(entry)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def all(self, kind: str) -> list[Any]:
        return [entry[kind] for entry in self.entries if kind in entry]


class Application:
    def __init__(self, order: Order) -> None:
        self._order = order
        docker = order.backend.startswith("unix:")
        inner: SandboxProvider = (
            DockerProvider(host=order.backend) if docker else providers.make(order.backend)
        )
        self._provider = WiredProvider(inner, None)
        self._store = Store(f"sqlite:///{order.directory}/store.db")
        self._sandboxes: set[str] = set()
        self._chance = random.Random(os.getpid())

    async def main(self) -> None:
        loop, told = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
        listening = asyncio.create_task(self._listen(told))
        print("ready", flush=True)  # noqa: T201
        await asyncio.gather(*(self._drive(name) for name in self._order.sessions))
        listening.cancel()
        await self._store.aclose()
        await self._provider.aclose()

    async def _listen(self, told: asyncio.StreamReader) -> None:
        while line := (await told.readline()).decode().split():
            if line[0] == "clock":
                moved[0] = float(line[1])
            elif line[0] == "stacks":
                for task in asyncio.all_tasks():
                    task.print_stack()
            elif line[0] == "cut":
                for sandbox_id in self._sandboxes:
                    self._provider.line(sandbox_id).cut()

    async def _drive(self, name: str) -> None:
        record = Record(Path(self._order.directory) / name)
        while len(record.all("acknowledged")) < self._order.prompts:
            try:
                async with await self._opened(name, record) as session:
                    record.add(sandbox=session.sandbox.id)
                    self._sandboxes.add(session.sandbox.id)
                    await self._check_files(session, record)
                    await self._work(session, record, name)
            except SandboxError as error:
                record.add(error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(AGAIN_S)
            except BaseException as error:
                record.add(wrong=traceback.format_exc(), error=repr(error))
                raise

    async def _opened(self, name: str, record: Record) -> Session:
        session_id = self._order.sessions[name]
        kind: Any = ClaudeCode if self._order.agent == "claude-code" else Messages
        agent: Agent = kind(model_url=self._order.model, api_key="the-real-key")
        options: Any = {"agent": agent, "store": self._store, "provider": self._provider}
        try:
            await self._store.get(session_id)
        except StoreError as error:
            if error.code != "no_session":
                raise
            assert not record.all("acknowledged"), "the store has lost a session"
            every_s = self._chance.choice([None, 0.2, 60.0])
            more: Any = {"workspace": Workspace(every_s=every_s), "lease_s": LEASE_S}
            return Session(id=session_id, **options, **more)
        return Session.resume(session_id, **options)

    async def _check_files(self, session: Session, record: Record) -> None:
        saved = record.all("saved")
        shown = await session.sandbox.sh(SHOWN)
        told = shown.text.split()
        record.add(shown=str(shown))
        if not told or len(told) == 1:  # there is no such file
            assert not saved, f"the files are gone that were saved with {saved[-1]}"
            return
        real, claimed, number = told
        assert real == claimed, "a file is torn"
        assert int(number) >= max(saved, default=0), f"{number} was restored, {saved[-1]} saved"
        record.add(restored=int(number))

    async def _work(self, session: Session, record: Record, name: str) -> None:
        while len(record.all("acknowledged")) < self._order.prompts:
            number = len(record.all("asked")) + 1
            record.add(asked=number)
            result = await session.run(f"prompt {name}-{number};")
            if result.is_error:
                record.add(error=f"result: {result.errors}")
                return
            assert result.text.strip() == f"answer {name}-{number};", result.text
            record.add(acknowledged=number)
            if self._chance.random() < 0.5:
                await session.save()
                record.add(saved=number)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    time.time = lambda: real_time() + moved[0]
    asyncio.run(Application(Order(**json.loads(sys.argv[1]))).main())
