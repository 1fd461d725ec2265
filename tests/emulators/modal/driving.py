"""What the tests of the emulator do with it."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Coroutine
from typing import Any

import modal

Create = Callable[..., Coroutine[Any, Any, Any]]
APP = "tests"
# The SDK's types are partly unknown.
registry: Any = getattr(modal.Image, "from_registry")  # noqa: B009
sandboxes: Any = modal.Sandbox
OFTEN = 40  # more often than the SDK tries again


async def run(sandbox: Any, *command: str, stdin: bytes = b"", **options: Any) -> tuple[int, bytes]:
    """The exit code and stdout of a program."""
    process = await sandbox.exec.aio(*command, text=False, **options)
    process.stdin.write(stdin)
    process.stdin.write_eof()
    await process.stdin.drain.aio()
    said = await process.stdout.read.aio()
    return await process.wait.aio(), said


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


async def sh(sandbox: Any, script: str, **options: Any) -> str:
    code, said = await run(sandbox, "sh", "-c", script, **options)
    assert code == 0
    return said.decode()


async def terminate_all(app: Any, client: Any) -> None:
    async for sandbox in modal.Sandbox.list.aio(app_id=app.app_id, client=client):
        await sandbox.terminate.aio()
