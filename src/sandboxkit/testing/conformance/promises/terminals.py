"""Processes with a terminal."""

from __future__ import annotations

import anyio
import pytest

from sandboxkit.channel.requests import PIPE
from sandboxkit.errors import InvalidSpecError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.inside import mark, program, read_until, until_running
from sandboxkit.testing.conformance.promise import promise


@promise
async def test_a_terminal_is_one_on_all_three_streams(sandbox: Sandbox) -> None:
    """With `pty`, the process sees a terminal, and writes all of its output to `stdout`."""
    script = """
        import os
        print([os.isatty(fd) for fd in (0, 1, 2)], flush=True)
        os.write(2, b"aside")
        open("/dev/tty")
    """
    async with await sandbox.spawn(program(script), pty=True) as process:
        assert await process.stdout.read() == b"[True, True, True]\r\naside"
        assert await process.stderr.read() == b""
        assert await process.wait() == 0


@promise
async def test_a_terminal_has_the_size_asked_for(sandbox: Sandbox) -> None:
    """24 rows of 80 columns, or the size given."""
    for pty, size in ((True, b"24 80"), ((40, 100), b"40 100")):
        async with await sandbox.spawn(["stty", "size"], stdin=PIPE, pty=pty) as process:
            assert (await process.stdout.read()).strip() == size


@promise
async def test_a_terminal_can_be_resized(sandbox: Sandbox) -> None:
    """The process is told by SIGWINCH, and finds the new size."""
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done"
    async with await sandbox.spawn(["sh", "-c", script], stdin=PIPE, pty=True) as process:
        await read_until(process.stdout, b"ready")
        await process.resize(50, 132)
        await read_until(process.stdout, b"50 132")


@promise
async def test_what_is_typed_arrives_and_is_echoed(sandbox: Sandbox) -> None:
    """Input goes through the terminal; the end of the input is Ctrl-D."""
    async with await sandbox.spawn(["cat"], stdin=PIPE, pty=True) as process:
        await process.stdin.write(b"hello\n")
        assert await read_until(process.stdout, b"hello\r\nhello\r\n")
        await process.stdin.close()
        assert await process.wait() == 0


@promise
async def test_ctrl_c_interrupts_what_runs_in_the_terminal(sandbox: Sandbox) -> None:
    """The interrupt reaches the command in the foreground, and the shell goes on."""
    marked = mark()
    async with await sandbox.spawn(["sh", "-i"], stdin=PIPE, pty=True) as process:
        await process.stdin.write(f"sleep {marked}\n".encode())
        await until_running(sandbox, marked)
        await process.stdin.write(b"\x03")
        await process.stdin.write(b"echo go$((1))on; exit 0\n")
        await read_until(process.stdout, b"go1on\r\n")
        with anyio.fail_after(20):
            assert await process.wait() == 0


@promise
@pytest.mark.parametrize("size", [(0, 80), (-1, 80), (24, 70_000)])
async def test_a_size_that_no_terminal_has_is_refused(
    sandbox: Sandbox, size: tuple[int, int]
) -> None:
    """It is `InvalidSpecError`, at the start and later, and the process goes on."""
    with pytest.raises(InvalidSpecError):
        await sandbox.spawn(["true"], pty=size)
    async with await sandbox.spawn(["cat"], stdin=PIPE, pty=True) as process:
        with pytest.raises(InvalidSpecError):
            await process.resize(*size)
        await process.stdin.write(b"still here\n")
        await read_until(process.stdout, b"still here\r\nstill here\r\n")
