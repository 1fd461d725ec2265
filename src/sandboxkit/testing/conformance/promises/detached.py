"""Processes that outlive the host that started them."""

from __future__ import annotations

import anyio
import pytest

from sandboxkit.channel.requests import PIPE
from sandboxkit.errors import ExecStartError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.fixtures import Making
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
async def test_a_detached_process_is_taken_up_by_another_host(create: Making) -> None:
    """Its output and input go on where the first host left them, and its end is told."""
    first = await create()
    script = "while read line; do echo got $line; done; exit 7"
    process = await first.spawn(["sh", "-c", script], stdin=PIPE, detach=True)
    await process.stdin.write(b"one\n")
    assert await read_until(process.stdout, b"\n") == b"got one\n"
    await process.stdin.write(b"two\n")
    await first.detach(keep_s=60)

    second = await create.attach(first.id)
    again = await second.process(process.id)
    assert again.pid == process.pid
    await again.stdin.write(b"three\n")
    seen = await read_until(again.stdout, b"three\n")
    assert seen.removeprefix(b"got one\n") == b"got two\ngot three\n"
    await again.stdin.close()
    assert await again.wait() == 7


@promise
async def test_a_detached_process_that_has_ended_is_still_known(create: Making) -> None:
    """Its output and its exit code wait for the next host."""
    first = await create()
    process = await first.spawn(["sh", "-c", "read line; echo late; exit 8"], detach=True)
    await first.detach(keep_s=60)
    second = await create.attach(first.id)
    again = await second.process(process.id)
    assert await again.stdout.read() == b"late\n"
    assert await again.wait() == 8


@promise
async def test_what_is_not_detached_ends_with_its_host(create: Making) -> None:
    """Letting go of a sandbox ends what was to end with the host, and nothing else."""
    first = await create()
    mine, kept = mark(), mark()
    await first.spawn(["sleep", mine])
    await first.spawn(["sleep", kept], detach=True)
    await until_running(first, mine)
    await first.detach(keep_s=60)
    second = await create.attach(first.id)
    await until_gone(second, mine)
    assert len(await carrying(second, kept)) == 1


@promise
async def test_leaving_the_block_leaves_a_detached_process(sandbox: Sandbox) -> None:
    """A detached process ends by itself or by `kill`, not by its block's end."""
    marked = mark()
    async with await sandbox.spawn(["sleep", marked], detach=True) as process:
        await until_running(sandbox, marked)
    assert len(await carrying(sandbox, marked)) == 1
    again = await sandbox.process(process.id)
    await again.kill(grace_s=0)
    await until_gone(sandbox, marked)
    assert await again.wait() == -9


@promise
async def test_a_detached_process_is_not_held_up_without_a_host(create: Making) -> None:
    """It may write as much as it likes; the last of it is kept, and the loss is told."""
    first = await create()
    script = """
        import os, sys
        for count in range(100):
            os.write(1, b"x" * 65535 + b"\\n")
        print("the end", flush=True)
        open("done", "w").close()
    """
    process = await first.spawn(program(script), detach=True)
    await first.detach(keep_s=60)
    second = await create.attach(first.id)
    await until(lambda: second.files.exists("done"))
    again = await second.process(process.id)
    output = await again.stdout.read()
    assert output.endswith(b"the end\n")
    assert again.stdout.lost_bytes + len(output) == 65536 * 100 + len(b"the end\n")
    assert again.stdout.lost_bytes > 0


@promise
async def test_an_unknown_process_is_told(sandbox: Sandbox) -> None:
    """Taking up what is not there is `ExecStartError`, code `not_found`."""
    with pytest.raises(ExecStartError) as caught, anyio.fail_after(20):
        await sandbox.process("0123456789abcdef-1")
    assert caught.value.code == "not_found"
