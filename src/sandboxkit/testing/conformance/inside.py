"""What the tests do inside a sandbox: small Python programs, and looking at processes."""

from __future__ import annotations

import json
import secrets
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from sandboxkit.channel.process import OutputStream
from sandboxkit.sandbox import Sandbox

_PATIENCE_S = 30.0
_FIND = """
    import json, os, sys
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0")
        except OSError:
            continue
        if sys.argv[1].encode() in words and int(pid) != os.getpid():
            found.append(int(pid))
    print(json.dumps(found))
"""


def program(source: str, *arguments: str) -> list[str]:
    """The argv of a Python program."""
    return ["python3", "-c", textwrap.dedent(source), *arguments]


async def answer(sandbox: Sandbox, source: str, *arguments: str, **options: Any) -> Any:
    """The JSON that a Python program printed; it must succeed."""
    result = await sandbox.exec(program(source, *arguments), check=True, **options)
    return json.loads(result.stdout)


def mark() -> str:
    """A number of seconds for `sleep` that no other process waits for."""
    return f"{500 + secrets.randbelow(400)}.{secrets.randbelow(10**9):09}"


async def carrying(sandbox: Sandbox, marked: str) -> list[int]:
    """The processes in the sandbox that have `marked` as an argument."""
    found: list[int] = await answer(sandbox, _FIND, marked)
    return found


async def until(holds: Callable[[], Awaitable[object]], *, within_s: float = _PATIENCE_S) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It did not come to hold.
    """
    with anyio.fail_after(within_s):
        while not await holds():  # noqa: ASYNC110 - nothing in a sandbox tells us
            await anyio.sleep(0.02)


async def until_running(sandbox: Sandbox, marked: str, count: int = 1) -> None:
    """Wait until `count` processes have `marked` as an argument."""

    async def running() -> bool:
        return len(await carrying(sandbox, marked)) >= count

    await until(running)


async def until_gone(sandbox: Sandbox, marked: str) -> None:
    """Wait until no process has `marked` as an argument."""

    async def gone() -> bool:
        return not await carrying(sandbox, marked)

    await until(gone)


async def read_until(stream: OutputStream, wanted: bytes) -> bytes:
    """Read until `wanted` has come; all that was read."""
    seen = b""
    while wanted not in seen:
        seen += await stream.receive()
    return seen
