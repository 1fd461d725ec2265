"""Processes that run while the caller goes on: streams, signals, and their end."""

from __future__ import annotations

import asyncio
import json

import anyio
import pytest

from sandboxkit.channel.requests import PIPE
from sandboxkit.errors import ExecStartError, InvalidSpecError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.inside import (
    carrying,
    mark,
    program,
    read_until,
    until,
    until_gone,
    until_running,
)
from sandboxkit.testing.conformance.promise import promise


@promise
async def test_spawn_returns_while_the_process_runs(sandbox: Sandbox) -> None:
    """There is a number, no exit code yet, and then one that every `wait` gives."""
    async with await sandbox.spawn(["sh", "-c", "echo $$; read line; exit 5"], stdin=PIPE) as it:
        assert int(await read_until(it.stdout, b"\n")) == it.pid
        assert it.exit_code is None
        await it.stdin.write(b"go on\n")
        assert [await it.wait(), await it.wait(), it.exit_code] == [5, 5, 5]


@promise
async def test_the_streams_of_a_process_are_live_and_apart(sandbox: Sandbox) -> None:
    """Output comes as it is written, each stream for itself, and each has an end."""
    script = "echo first; echo aside >&2; read line; echo got $line"
    async with await sandbox.spawn(["sh", "-c", script], stdin=PIPE) as process:
        assert await read_until(process.stdout, b"\n") == b"first\n"
        assert await read_until(process.stderr, b"\n") == b"aside\n"
        await process.stdin.write(b"this\n")
        assert await process.stdout.read() == b"got this\n"
        with pytest.raises(anyio.EndOfStream):
            await process.stdout.receive()
        assert [chunk async for chunk in process.stderr] == []


@promise
async def test_nothing_written_early_is_lost(sandbox: Sandbox) -> None:
    """What is written at once after `spawn` reaches the process, every time."""

    async def once(number: int) -> None:
        async with await sandbox.spawn(["cat"], stdin=PIPE) as process:
            await process.stdin.write(f"message {number}".encode())
            await process.stdin.close()
            assert await process.stdout.read() == f"message {number}".encode()
            assert await process.wait() == 0

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(once, number)


@promise
async def test_without_a_pipe_the_input_of_a_process_is_empty(sandbox: Sandbox) -> None:
    """`stdin=None` is an input that has ended."""
    async with await sandbox.spawn(["cat"]) as process:
        assert await process.stdout.read() == b""
        assert await process.wait() == 0


@promise
async def test_writing_to_a_process_that_has_ended_is_no_error(sandbox: Sandbox) -> None:
    """As with a pipe whose reader is gone, save that nobody is hurt."""
    async with await sandbox.spawn(["true"], stdin=PIPE) as process:
        await process.wait()
        await process.stdin.write(b"x" * 3_000_000)
        await process.stdin.close()
        await process.stdin.close()


@promise
async def test_receive_gives_no_more_than_asked_for(sandbox: Sandbox) -> None:
    """`receive(n)` gives one to n bytes, and the rest later."""
    async with await sandbox.spawn(["printf", "abcdefghij"]) as process:
        pieces = [await process.stdout.receive(4) for _ in range(3)]
    assert b"".join(pieces) == b"abcdefghij"
    assert max(map(len, pieces)) == 4


@promise
async def test_a_cancelled_receive_loses_nothing(sandbox: Sandbox) -> None:
    """Who gives up waiting for output finds all of it later."""
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.02; done"
    async with await sandbox.spawn(["sh", "-c", script]) as process:
        seen = b""
        while len(seen) < 18:
            with anyio.move_on_after(0.005):
                seen += await process.stdout.receive()
    assert seen == b"1\n2\n3\n4\n5\n6\n7\n8\n9\n"


@promise
async def test_a_cancelled_wait_leaves_the_process_alone(sandbox: Sandbox) -> None:
    """Giving up waiting for the end does not bring it about."""
    async with await sandbox.spawn(["sh", "-c", "read line; exit 4"], stdin=PIPE) as process:
        with anyio.move_on_after(0.05):
            await process.wait()
        assert process.exit_code is None
        await process.stdin.close()
        assert await process.wait() == 4


@promise
async def test_a_slow_reader_holds_up_nobody_else(sandbox: Sandbox, folder: str) -> None:
    """A process is held back until its output is taken, and only that process."""
    script = """
        import os, sys
        for count in range(1000):
            os.write(1, b"x" * 65536)
            if count % 10 == 0:
                with open("count.new", "w") as out: out.write(str(count))
                os.rename("count.new", "count")
    """
    async with await sandbox.spawn(program(script), cwd=folder) as process:
        await until(lambda: sandbox.files.exists(f"{folder}/count"))
        counts: list[bytes] = []
        while len(counts) < 3 or len(set(counts[-3:])) > 1:
            # Another command is answered, and the process has stopped writing.
            assert (await sandbox.sh("sleep 0.1; echo hi")).stdout == b"hi\n"
            counts.append(await sandbox.files.read(f"{folder}/count"))
        assert int(counts[-1]) * 65536 < 16 * 1024 * 1024
        assert len(await process.stdout.read()) == 65536 * 1000
        assert await process.wait() == 0


@promise
async def test_a_hundred_commands_run_at_once(sandbox: Sandbox) -> None:
    """Each gets its own output and its own exit code."""

    async def once(number: int) -> None:
        result = await sandbox.sh(f"echo {number}; cat; exit {number}", stdin=b"in%d" % number)
        assert (result.exit_code, result.text) == (number, f"{number}\nin{number}")

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(once, number)


@promise
async def test_a_signal_reaches_the_process(sandbox: Sandbox) -> None:
    """It is delivered as that signal; after the end, nothing happens."""
    script = "trap 'echo usr1' USR1; trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done"
    async with await sandbox.spawn(["sh", "-c", script]) as process:
        await read_until(process.stdout, b"ready\n")
        await process.signal(10)
        assert await read_until(process.stdout, b"\n") == b"usr1\n"
        await process.signal(15)
        assert await process.wait() == 9
        await process.signal(15)


@promise
async def test_a_signal_reaches_the_processs_children(sandbox: Sandbox) -> None:
    """A signal goes to the group, as Ctrl-C in a terminal does."""
    marked = mark()
    async with await sandbox.spawn(["sh", "-c", f"sleep {marked}; echo after"]) as process:
        await until_running(sandbox, marked)
        await process.signal(2)
        assert await process.wait() in {-2, 130}
        assert await process.stdout.read() == b""
    await until_gone(sandbox, marked)


@promise
@pytest.mark.parametrize("number", [-1, 0, 65, 1000])
async def test_what_is_no_signal_is_refused(sandbox: Sandbox, number: int) -> None:
    """A number that is no signal is `InvalidSpecError`, and the process goes on."""
    async with await sandbox.spawn(["cat"], stdin=PIPE) as process:
        with pytest.raises(InvalidSpecError):
            await process.signal(number)
        await process.stdin.close()
        with anyio.fail_after(20):
            assert await process.wait() == 0


@promise
async def test_kill_ends_the_whole_tree(sandbox: Sandbox) -> None:
    """`kill` ends what the process started too, wherever it went; twice does no harm."""
    marked = mark()
    script = f"trap '' TERM; setsid sleep {marked} & nohup sleep {marked} >/dev/null & wait"
    async with await sandbox.spawn(["sh", "-c", script]) as process:
        await until_running(sandbox, marked, 2)
        await process.kill(grace_s=0.1)
        assert await carrying(sandbox, marked) == []
        assert await process.wait() == -9
        await process.kill()


@promise
async def test_kill_gives_the_grace_asked_for(sandbox: Sandbox) -> None:
    """A process that ends by itself after one TERM keeps its exit code, and nobody waits on."""
    script = """
        import signal, subprocess, sys, time
        family = [subprocess.Popen(["sleep", "60"]) for _ in range(50)]
        told = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(1))
        print("ready", flush=True)
        while not told:
            time.sleep(0.01)
        time.sleep(0.3)
        print("TERM", len(told))
        sys.exit(6)
    """
    async with await sandbox.spawn(program(script)) as process:
        await read_until(process.stdout, b"ready\n")
        with anyio.fail_after(20):
            await process.kill(grace_s=60)
            assert await process.wait() == 6
        assert await process.stdout.read() == b"TERM 1\n"


@promise
async def test_leaving_the_block_ends_the_process(sandbox: Sandbox) -> None:
    """What runs in an `async with` block ends with it, also when that is cancelled."""
    marked = mark()

    async def hold(begun: asyncio.Event) -> None:
        async with await sandbox.spawn(["sh", "-c", f"setsid sleep {marked} & sleep {marked}"]):
            await until_running(sandbox, marked, 2)
            begun.set()
            await asyncio.sleep(3600)

    begun = asyncio.Event()
    task = asyncio.ensure_future(hold(begun))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_gone(sandbox, marked)


@promise
async def test_a_process_that_cannot_be_started_is_told(sandbox: Sandbox) -> None:
    """`spawn` raises what `exec` raises."""
    with pytest.raises(ExecStartError) as caught:
        await sandbox.spawn(["no-such-program"], stdin=PIPE)
    assert caught.value.code == "not_found"
    with pytest.raises(InvalidSpecError):
        await sandbox.spawn(["true"], stdin=json.loads('"bytes"'))
