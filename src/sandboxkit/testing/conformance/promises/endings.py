"""Ending a command: by its time-out, by cancellation; and with it all that it started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from sandboxkit.channel.execution import ExecResult
from sandboxkit.errors import ExecTimeoutError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.inside import (
    answer,
    mark,
    program,
    until,
    until_gone,
    until_running,
)
from sandboxkit.testing.conformance.promise import promise

_WAYS_TO_HIDE = {
    "plain": "sleep {mark}",
    "background": "sleep {mark} & sleep {mark}",
    "setsid": "setsid sleep {mark} & sleep {mark}",
    "nohup": "nohup sleep {mark} >/dev/null 2>&1 & sleep {mark}",
    "double fork": "(setsid sh -c 'sleep {mark} & exit') & sleep {mark}",
    "orphan": "sh -c 'setsid sleep {mark} &' ; sleep {mark}",
    "ignores TERM": "trap '' TERM; sleep {mark} & sleep {mark}",
    "stopped": "sleep {mark} & kill -STOP $!; sleep {mark}",
}


@promise
async def test_a_time_out_ends_all_that_was_started(sandbox: Sandbox) -> None:
    """After a time-out nothing that the command started is left, however it hid."""

    async def once(how: str) -> None:
        marked = mark()
        async with anyio.create_task_group() as watching:
            watching.start_soon(until_running, sandbox, marked)
            script = "echo begun; " + _WAYS_TO_HIDE[how].format(mark=marked)
            with anyio.fail_after(30):
                result = await sandbox.sh(script, timeout_s=2.0)
                assert result.timed_out, how
                assert result.exit_code != 0, how
                assert result.stdout == b"begun\n", how
        await until_gone(sandbox, marked)

    async with anyio.create_task_group() as tasks:
        for how in _WAYS_TO_HIDE:
            tasks.start_soon(once, how)


@promise
async def test_a_time_out_lets_a_program_end_by_itself(sandbox: Sandbox) -> None:
    """TERM comes before KILL: who cleans up in time keeps its output and its exit code."""
    script = "trap 'echo cleaned; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    result = await sandbox.sh(script, timeout_s=1.0)
    assert (result.timed_out, result.exit_code) == (True, 3)
    assert result.stdout == b"ready\ncleaned\n"


@promise
async def test_a_time_out_raises_only_if_asked_to(sandbox: Sandbox) -> None:
    """With `check` it is `ExecTimeoutError`, a `TimeoutError`, that holds the output so far."""
    with pytest.raises(TimeoutError) as caught:
        await sandbox.sh("echo so far; sleep 60", timeout_s=0.3, check=True)
    assert isinstance(caught.value, ExecTimeoutError)
    assert caught.value.result.stdout == b"so far\n"


@promise
async def test_a_command_that_is_in_time_is_not_timed_out(sandbox: Sandbox) -> None:
    """A time-out that was not reached changes nothing."""
    result = await sandbox.sh("echo in time", timeout_s=60)
    assert (result.exit_code, result.timed_out, result.text) == (0, False, "in time\n")


async def _cancel_task(work: Awaitable[ExecResult], begun: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(work)
    await begun()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _wait_for(work: Awaitable[ExecResult], begun: Callable[[], Awaitable[None]]) -> None:
    waiting = asyncio.ensure_future(begun())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(work, 1.0)
    await waiting


async def _cancel_scope(work: Awaitable[ExecResult], begun: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await begun()
        tasks.cancel_scope.cancel()


@promise
@pytest.mark.parametrize("cancel", [_cancel_task, _wait_for, _cancel_scope])
async def test_cancelling_a_command_ends_all_that_it_started(
    sandbox: Sandbox,
    cancel: Callable[[Awaitable[ExecResult], Callable[[], Awaitable[None]]], Awaitable[None]],
) -> None:
    """Every way to cancel `exec` ends its whole tree, and the cancellation goes on."""
    marked = mark()
    work = sandbox.sh(f"trap '' TERM; setsid sleep {marked} & sleep {marked}")
    await cancel(work, lambda: until_running(sandbox, marked, 2))
    await until_gone(sandbox, marked)
    assert (await sandbox.exec(["true"])).exit_code == 0


@promise
async def test_cancelling_at_once_leaves_nothing(sandbox: Sandbox) -> None:
    """A command that is cancelled before it has started does not run on in secret."""
    marked = mark()
    for delay in (0, 0, 1, 2, 3, 5):
        task = asyncio.ensure_future(sandbox.exec(["sleep", marked]))
        await asyncio.sleep(delay / 1000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until_gone(sandbox, marked)


@promise
async def test_orphans_are_reaped(sandbox: Sandbox) -> None:
    """Processes whose parent has gone do not pile up as zombies."""
    script = """
        import os
        for _ in range(300):
            child = os.fork()
            if child == 0:
                os.fork()
                os._exit(0)
            os.waitpid(child, 0)
    """
    assert (await sandbox.exec(program(script))).exit_code == 0
    count = """
        import json, os
        zombies = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                zombies += open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
        print(json.dumps(zombies))
    """

    async def none_left() -> bool:
        return bool(await answer(sandbox, count) == 0)

    await until(none_left)
