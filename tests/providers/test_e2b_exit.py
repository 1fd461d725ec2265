"""A process that has used E2B ends with its own exit code.

The SDK's HTTP runtime (pyqwest, in Rust) tells asyncio of each result from a thread of
its own, which lets go of the interpreter's lock while it does. Should the interpreter end
before that thread has the lock again, the thread is ended in the middle of a call, and now
and then the process aborts with it (SIGABRT).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest

from tests.emulators.e2b import E2BEmulator

# The last result's thread is held until the interpreter begins to end. From then on the
# main thread gives the lock away only where it waits, as it does when the switch interval
# is that long: the others have it again if they are waited for, else never.
SCRIPT = """
import asyncio, atexit, os, sys, threading
from sandboxkit.ownership import owned
from sandboxkit.providers.base import Command
from sandboxkit.providers.e2b import E2BProvider
from sandboxkit.spec import SandboxSpec

last, ending = threading.Event(), threading.Event()

def hold_the_last(loop):
    tell = loop.call_soon_threadsafe

    def told(*args, **kwargs):
        handle = tell(*args, **kwargs)
        if last.is_set() and threading.current_thread() is not threading.main_thread():
            last.clear()
            os.write(1, b"held, ")
            ending.wait()
            os.write(1, b"let go")
        return handle

    loop.call_soon_threadsafe = told

async def main():
    hold_the_last(asyncio.get_running_loop())
    handle = await E2BProvider().create(owned(SandboxSpec(lease_s=5)))
    channel = await handle.spawn(Command(("cat",)))
    await channel.aclose()
    last.set()
    await handle.destroy()

asyncio.run(main())
atexit.register(ending.set)
sys.setswitchinterval(1000)
"""


@pytest.mark.parametrize("code", [0, 7])
async def test_the_runtimes_threads_have_finished_before_the_interpreter_ends(
    e2b: E2BEmulator, tmp_path: Path, code: int
) -> None:
    e2b.faults.clear()
    script = tmp_path / "script.py"
    await anyio.Path(script).write_text(f"{SCRIPT}raise SystemExit({code})\n")
    ended = await anyio.run_process([sys.executable, script], check=False, env=os.environ)
    assert (ended.stdout, ended.stderr) == (b"held, let go", b"")
    assert ended.returncode == code
    assert e2b.sandboxes() == set()
