"""Disturbs an application with hybrid sessions at random, and looks at what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sandboxkit as sk
from sandboxkit.journal import journal
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.store import Store
from sandboxkit.testing import Reply, ScriptedModel, call, say
from sandboxkit.testing.scripted_model.request import ModelRequest
from tests.chaos.application import Order, Record

if TYPE_CHECKING:
    import pytest

END_S = 200.0  # for an application that nothing disturbs any more
GONE_S = 120.0  # a guest that no host has greeted yet waits 60 s for one
STEPS = 3  # of each session at most, on average, from one fault to the next
STILL_S = 8.0
CLOCKS_S = (-30 * 86_400.0, -3600.0, 5.0, 3600.0, 30 * 86_400.0)
TOKEN = re.compile(r"(prompt|answer) ([\w]+-\d+);")
WORK = """
{{ echo {number}; head -c 30000 /dev/urandom | base64; }} > new &&
{{ sha256sum < new | cut -c1-64; cat new; }} > newer && mv newer work && echo {number} >> log
"""

Fault = Callable[[], Awaitable[None]]


def conversation(request: ModelRequest) -> list[tuple[str, str]]:
    """All prompts and answers that the model is shown, in order."""
    texts = (block.text for message in request.messages for block in message.content)
    return [(kind, token) for text in texts for kind, token in TOKEN.findall(text)]


def answer(request: ModelRequest) -> Reply:
    """Some work on the files, and then a text of which there is no other."""
    _, token = conversation(request)[-1]
    command = WORK.format(number=token.partition("-")[2])
    blocks = (block for message in request.messages for block in message.content)
    # The results alone do not tell: those of a turn that was killed stand before the next prompt.
    if any(block.type == "tool_use" and block.input == {"command": command} for block in blocks):
        return Reply([say(f"answer {token};")], pause_s=0.05)
    name = next(tool for tool in request.tools if tool.lower() == "bash")
    return Reply([call(name, command=command)])


@dataclass
class Tally:
    """What has happened in a run.

    Attributes:
        faults: How often each was struck.
        sessions: How many there were.
        resumed: How often one was taken up.
        acknowledged: Prompts whose answers the application has seen.
    """

    faults: Counter[str] = field(default_factory=Counter[str])
    sessions: int = 0
    resumed: int = 0
    acknowledged: int = 0


class Chaos:
    """One application and its disturbances.

    Args:
        backend: See `Order`; so are `agent` and `prompts`.
        agent: See `backend`.
        directory: An empty one.
        sessions: How many at once.
        prompts: See `backend`.
        seed: Of all that is random here.
        delete: Removes one of these sandboxes at the backend, as somebody else would.
        more: Further faults, by name.
    """

    def __init__(
        self,
        backend: str,
        *,
        agent: str = "messages",
        directory: Path,
        sessions: int,
        prompts: int = 4,
        seed: int,
        delete: Callable[[Sequence[str]], Awaitable[None]],
        more: Mapping[str, Fault] | None = None,
    ) -> None:
        directory.mkdir()
        ids = {f"s{number}": str(uuid4()) for number in range(sessions)}
        self._order = Order(backend, agent, "", str(directory), ids, prompts)
        self._directory = directory
        self._chance = random.Random(seed)
        self._delete = delete
        self._deck: list[str] = []
        self._story: list[str] = []
        self._mark = f"SANDBOXKIT_CHAOS={secrets.token_hex(8)}"
        self._host: asyncio.subprocess.Process | None = None
        self._faults: dict[str, Fault] = {
            "kill": self._kill,
            "cut": self._cut,
            "delete": self._delete_some,
            "clock": self._clock,
            **(more or {}),
        }

    async def run(self, faults: int, tally: Tally) -> None:
        """So many faults at random moments; all sessions come to their end none the less."""
        async with ScriptedModel(answer) as model:
            self._order = replace(self._order, model=model.url)
            await self._start()
            for _ in range(faults):
                await self._some_moment()
                if self._ended():
                    break
                kind = self._next_kind()
                self._story.append(f"{time.monotonic():.1f} {kind}")
                await self._faults[kind]()
                tally.faults[kind] += 1
                if self._ended():
                    await self._start()
            await self._to_the_end()
            shown = {self._session_of(request): request for request in model.requests}
        for name in self._order.sessions:
            self._check(name, conversation(shown[name]), tally)
        assert not self._processes()
        await self._sweep()

    def _next_kind(self) -> str:
        """By chance, and none twice before each has come once."""
        if not self._deck:
            self._deck = self._chance.sample(sorted(self._faults), len(self._faults))
        return self._deck.pop()

    async def _some_moment(self) -> None:
        """Somewhere in the next steps of the sessions; or a while later, where none gets on."""
        steps = self._steps() + self._chance.randrange(STEPS * len(self._order.sessions))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STILL_S):
                while self._steps() < steps and not self._ended():
                    await asyncio.sleep(0.01)
        await asyncio.sleep(self._chance.uniform(0, 0.3))

    def _steps(self) -> int:
        files = (self._directory / name for name in self._order.sessions)
        return sum(file.read_bytes().count(b"\n") for file in files if file.exists())

    def _session_of(self, request: ModelRequest) -> str:
        return conversation(request)[-1][1].partition("-")[0]

    def _check(self, name: str, seen: list[tuple[str, str]], tally: Tally) -> None:
        """The last request of the session holds all that was acknowledged, each once."""
        record = Record(self._directory / name)
        tokens = [f"{name}-{number}" for number in record.all("acknowledged")]
        seen = [*seen, ("answer", tokens[-1])]  # which the request came before
        wanted = [(kind, token) for token in tokens for kind in ("prompt", "answer")]
        doubled = [one for one, count in Counter(seen).items() if count > 1]
        assert not doubled, f"{doubled} twice in {seen}\n{self._told()}"
        assert [one for one in seen if one in wanted] == wanted, f"{seen}\n{self._told()}"
        tally.sessions += 1
        tally.acknowledged += len(tokens)
        tally.resumed += len(record.all("sandbox")) - 1

    # the application

    async def _start(self) -> None:
        name, _, value = self._mark.partition("=")
        environment = {**os.environ, name: value, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._host = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.application", json.dumps(asdict(self._order))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
            env=environment,
        )
        assert self._host.stdout is not None
        said = await self._host.stdout.readline()
        assert said == b"ready\n", said

    def _ended(self) -> bool:
        return self._host is None or self._host.returncode is not None

    async def _to_the_end(self) -> None:
        assert self._host is not None
        try:
            async with asyncio.timeout(END_S):
                code = await self._host.wait()
        except TimeoutError:
            await self._say("stacks")
            await asyncio.sleep(2)
            await self._kill()
            code = -1
        assert code == 0, self._told()

    def _told(self) -> str:
        """What has happened to whom, and when."""
        told = [f"{path.name}: {path.read_text()}" for path in self._directory.glob("s[0-9]*")]
        return "\n".join([*self._story, *told])

    def _processes(self) -> list[str]:
        """All that the application, in any of its lives, has left running."""
        found: list[str] = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
        return found

    async def _sweep(self) -> None:
        """A store whose sessions are deleted keeps nothing, whoever was killed while it wrote."""
        async with Store(f"sqlite:///{self._directory}/store.db") as store:
            for session_id in self._order.sessions.values():
                await store.delete(session_id)
            await store.sweep(older_s=-60)
        left = [path for path in (self._directory / "files").rglob("*") if path.is_file()]
        assert not left

    # what befalls it

    async def _kill(self) -> None:
        assert self._host is not None
        self._host.kill()
        await self._host.wait()

    async def _say(self, line: str) -> None:
        assert self._host is not None
        assert self._host.stdin is not None
        try:
            self._host.stdin.write(f"{line}\n".encode())
            await self._host.stdin.drain()
        except ConnectionError:  # it has just ended
            await self._host.wait()

    async def _cut(self) -> None:
        await self._say("cut")

    async def _clock(self) -> None:
        await self._say(f"clock {self._chance.choice(CLOCKS_S)}")

    async def _delete_some(self) -> None:
        records = [Record(self._directory / name) for name in self._order.sessions]
        last = [made[-1] for record in records if (made := record.all("sandbox"))]
        if last:
            await self._delete([self._chance.choice(last)])


async def nothing_is_left(
    provider: str | SandboxProvider,
    alive: Callable[[], Awaitable[set[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the leases have passed and the reaper has run: no sandbox, no entry, no lock."""
    deadline = time.monotonic() + GONE_S
    said: list[Any] = []
    while left := await alive():
        assert time.monotonic() < deadline, (left, [(one.info.id, one.why) for one in said])
        await asyncio.sleep(0.5)
        said = await sk.reap(provider, paused=True)
        assert all(one.action != "failed" for one in said)
    held = [row for row in (await journal().rows()).values() if row.holds and not row.ended]
    assert not [hold for row in held for hold in row.holds if hold.alive]
    much_later = time.time() + 7200
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: much_later)
        await sk.reap(provider, paused=True)
        assert [row for row in (await journal().rows()).values() if row.ended is None] == []
    file = Path(os.environ["SANDBOXKIT_JOURNAL"])
    assert len(list(file.with_name(f"{file.name}.holders").glob("*"))) <= 1  # this process's
