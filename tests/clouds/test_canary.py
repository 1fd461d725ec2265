"""A key of the host is nowhere in the sandbox, and in nothing that sandboxkit says."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import anyio
import docker
import pytest

from sandboxkit.agents import ToolResult
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.messages import Messages
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.spec import OWNER_LABEL
from sandboxkit.testing import ScriptedModel, call, fail, say
from tests.clouds.conftest import Backend
from tests.leaks import OWNER

pytestmark = pytest.mark.timeout(300)  # the first builds an image with the CLI in it

HALVES = ("sk-ant-canary-of-", "the-host-7f3a9c")
CANARY = "".join(HALVES)

SEARCH = f"""
import os, sys
canary = b"".join([{HALVES[0].encode()!r}, {HALVES[1].encode()!r}])
me, found, read = str(os.getpid()), [], 0

def look(path, pieces):
    global read
    tail = b""
    for piece in pieces:
        read += len(piece)
        if canary in tail + piece:
            found.append(path)
            return
        tail = piece[-len(canary):]

def content(path):
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            yield piece

def memory(pid):
    with open(f"/proc/{{pid}}/maps") as maps, open(f"/proc/{{pid}}/mem", "rb", 0) as mem:
        for line in maps:
            span, mode = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if mode.startswith("rw") and end - start <= 1 << 28:
                mem.seek(start)
                yield mem.read(end - start)

def attempt(path, pieces):
    try:
        look(path, pieces)
    except (OSError, ValueError, OverflowError):
        pass

for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        attempt(f"/proc/{{pid}}/{{name}}", content(f"/proc/{{pid}}/{{name}}"))
    if pid != me:
        attempt(f"/proc/{{pid}}/mem", memory(pid))
for folder, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/proc", "/sys", "/dev")]
    for name in files:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path):
            attempt(path, content(path))
print("read", read // 1_000_000, "MB; found in", found)
"""


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """All that anything logs, at the finest level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    caplog.set_level(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("kind", [ClaudeCode, Messages])
async def test_the_key_of_the_host_is_nowhere(
    backend: Backend, said: io.StringIO, kind: type[ClaudeCode | Messages]
) -> None:
    editor = "str_replace_based_edit_tool"
    calls = {
        ClaudeCode: [
            call("Write", file_path="/tmp/search.py", content=SEARCH),
            call("Bash", command="python3 /tmp/search.py", timeout=120_000),
        ],
        Messages: [
            call(editor, command="create", path="/tmp/search.py", file_text=SEARCH),
            call("bash", command="python3 /tmp/search.py"),
        ],
    }
    model = ScriptedModel(
        [
            *calls[kind],
            say("Nothing."),
            *[fail(400, "no such thing")] * 9,
        ]
    )
    async with (
        model,
        Session(
            backend.name, agent=(agent := kind(model_url=model.url, api_key=CANARY))
        ) as session,
    ):
        shown: list[object] = [event async for event in session.stream("Look for keys")]
        outside = await anyio.to_thread.run_sync(seen_by_the_engine)
        shown.append(await session.run("And now?"))
        shown += [agent, session, session.sandbox, session.sandbox.info, session.meter.calls]

    (searched,) = [
        event.text for event in shown if isinstance(event, ToolResult) and "found in" in event.text
    ]
    assert searched.strip().endswith("MB; found in []")
    assert int(searched.split()[1]) > 100, "it has looked at the whole system"
    assert "no such thing" in repr(shown)
    assert CANARY not in f"{shown!r}{outside}{said.getvalue()}"


async def test_the_search_finds_what_is_there(engine: str) -> None:
    async with Sandbox.create("docker", env={"LEAKED": CANARY}) as sandbox:
        await sandbox.files.write("/tmp/.hidden/key", b"x" * ((1 << 20) - 5) + CANARY.encode())
        await sandbox.files.write("search.py", SEARCH)
        async with await sandbox.spawn(["python3", "-c", HOLDER, CANARY[::-1]]) as holder:
            await holder.stdout.receive()
            done = await sandbox.exec(["python3", "search.py"])
            found = done.check().text
            assert "/tmp/.hidden/key" in found
            assert "/proc/self" not in found
            assert f"/proc/{holder.pid}/mem" in found
        assert "environ" in found


HOLDER = """
import sys, time
held = bytearray(sys.argv[1][::-1].encode())
print("held", flush=True)
time.sleep(60)
"""


def seen_by_the_engine() -> str:
    """What Docker tells of this run's containers: their definitions and their logs."""
    client: Any = docker.from_env()
    try:
        ours = client.containers.list(filters={"label": f"{OWNER_LABEL}={OWNER}"})
        assert ours
        kept = [each for each in ours if each.attrs["HostConfig"]["LogConfig"]["Type"] != "none"]
        return "".join([*(str(each.attrs) for each in ours), *(str(each.logs()) for each in kept)])
    finally:
        client.close()
