"""`sandboxkit exec`: one command, its bytes as they are, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from sandboxkit.channel.requests import PIPE
from sandboxkit.cli.steps import Steps
from sandboxkit.cli.terminal import make_console
from sandboxkit.concurrency import apart, cancel_and_wait
from sandboxkit.sandbox import Sandbox

if TYPE_CHECKING:
    from sandboxkit.channel.process import OutputStream, Process
    from sandboxkit.spec import SandboxSpec

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
    copies = [_Copy(process.stdout, _STDOUT), _Copy(process.stderr, _STDERR)]
    ended = asyncio.ensure_future(process.wait())
    feeding = asyncio.ensure_future(_feed(process)) if has_input else None
    running = {ended, *(copy.task for copy in copies)}
    try:
        while not ended.done() or any(copy.at_work() for copy in copies):
            done, running = await asyncio.wait(
                running,
                timeout=_QUIET_S if ended.done() else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                task.result()
        return _as_shell(ended.result())
    except BrokenPipeError:  # whoever read our output has left
        return _BROKEN_PIPE
    finally:
        await cancel_and_wait(feeding, *running)


class _Copy:
    """Copies a stream to a file descriptor of ours, as fast as that is read."""

    def __init__(self, stream: OutputStream, fd: int) -> None:
        self._stream, self._fd = stream, fd
        self._bytes = self._bytes_before = 0
        self._writing = False
        self.task: asyncio.Task[object] = asyncio.ensure_future(self._copy())

    async def _copy(self) -> None:
        async for chunk in self._stream:
            self._writing = True
            await apart(_write_all, self._fd, chunk)
            self._writing = False
            self._bytes += len(chunk)

    def at_work(self) -> bool:
        """Whether it has copied something since it was last asked, or still does."""
        moved, self._bytes_before = self._bytes > self._bytes_before, self._bytes
        return not self.task.done() and (moved or self._writing)


async def _feed(process: Process) -> None:
    while chunk := await apart(os.read, _STDIN, _BLOCK):
        await process.stdin.write(chunk)
    await process.stdin.close()


async def _whole(
    sandbox: Sandbox,
    argv: Sequence[str],
    cwd: str | None,
    env: Mapping[str, str],
    user: str | None,
    *,
    has_input: bool,
) -> int:
    """Without the guest, output comes at the end."""
    given = bytearray()
    while has_input and (chunk := await apart(os.read, _STDIN, _BLOCK)):
        given += chunk
    done = await sandbox.exec(argv, cwd=cwd, env=env, user=user, stdin=bytes(given))
    await apart(_write_all, _STDOUT, done.stdout)
    await apart(_write_all, _STDERR, done.stderr)
    return _as_shell(done.exit_code)


def _as_shell(exit_code: int) -> int:
    return exit_code if exit_code >= 0 else 128 - exit_code


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
