"""`sandboxkit exec`: one command, its bytes as they are, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from sandboxkit.channel.process import PIPE
from sandboxkit.cli.steps import Steps
from sandboxkit.cli.terminal import make_console
from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.sandbox import Sandbox

if TYPE_CHECKING:
    from sandboxkit.channel.process import OutputStream, Process
    from sandboxkit.spec import SandboxSpec

T = TypeVar("T")

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_BLOCK: Final = 64 * 1024
_QUIET_S: Final = 0.5  # after the exit, for output that something in the background still holds
_BROKEN_PIPE: Final = 128 + 13  # as a shell shows a program that SIGPIPE has ended


async def execute(
    argv: Sequence[str],
    *,
    provider: str,
    spec: SandboxSpec,
    sandbox_id: str | None,
    cwd: str | None,
    env: Mapping[str, str],
    user: str | None,
) -> int:
    """Run a command in a fresh sandbox, or in a living one; its exit code.

    stdin is passed through unless it is a terminal. A signal's code is 128 and its number,
    as in a shell.
    """
    if sandbox_id is not None:
        opening = Sandbox.attach(provider, sandbox_id)
    else:
        opening = Sandbox.create(provider, spec=spec)
    async with contextlib.AsyncExitStack() as stack:
        with Steps(make_console(stderr=True)):
            sandbox = await stack.enter_async_context(opening)
        has_input = not sys.stdin.isatty()
        if not sandbox.info.guest:
            return await _whole(sandbox, argv, cwd, env, user, has_input=has_input)
        process = await stack.enter_async_context(
            await sandbox.spawn(
                argv, cwd=cwd, env=env, user=user, stdin=PIPE if has_input else None
            )
        )
        return await _streamed(process, has_input=has_input)


async def _streamed(process: Process, *, has_input: bool) -> int:
    feeding = asyncio.ensure_future(_feed(process)) if has_input else None
    copies = [_Copy(process.stdout, _STDOUT), _Copy(process.stderr, _STDERR)]
    try:
        ended = asyncio.ensure_future(process.wait())
        tasks = {copy.task for copy in copies}
        broken = [copy.broken for copy in copies]
        await asyncio.wait({ended, *broken}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await cancel_and_wait(ended)
            return _BROKEN_PIPE
        code = ended.result()
        while not all(task.done() for task in tasks) and any(copy.moved() for copy in copies):
            await asyncio.wait(tasks, timeout=_QUIET_S)
        return code if code >= 0 else 128 - code
    finally:
        await cancel_and_wait(feeding, *(copy.task for copy in copies))
