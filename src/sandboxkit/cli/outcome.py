"""How a command ends: its exit code, one line for an error, and a clean Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

import typer

from sandboxkit.cli.setup import setup_hint
from sandboxkit.cli.terminal import complain, forgive_encoding
from sandboxkit.errors import SandboxError

FAILED: Final = 1
USAGE: Final = 2
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_THREADS_S: Final = 0.5


def finish(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a command to its end, and leave with the exit code that it returns.

    An error is one line on stderr and exit code 1. Ctrl-C (or SIGTERM) cancels the
    command, waits for its cleanup, and leaves with 130 (143); the same a second time does
    not wait.
    """
    forgive_encoding()
    try:
        code = asyncio.run(_until_stopped(work))
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    _leave_behind_hanging_threads(code)
    raise typer.Exit(code)


async def _until_stopped(work: Coroutine[Any, Any, int]) -> int:
    stopped: list[int] = []
    task = asyncio.current_task()

    def stop(number: int) -> None:
        if number in stopped:
            raise KeyboardInterrupt
        stopped.append(number)
        if len(stopped) > 1:  # an MCP client sends one after the other, without impatience
            return
        complain("removing what was created; once more to leave at once.", label="Stopping")
        if task is not None:
            task.cancel()

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            with contextlib.suppress(NotImplementedError):  # Windows: asyncio's own Ctrl-C
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        code = await work
    except asyncio.CancelledError:
        if not stopped:
            raise
        code = FAILED
    except SandboxError as error:
        complain(f"{error} ({error.code})")
        if hint := setup_hint(error):
            complain(hint, label="Hint")
        code = FAILED
    except OSError as error:  # of this machine: a path of `--upload`, a full disk
        complain(str(error))
        code = FAILED
    return 128 + stopped[0] if stopped else code


def _leave_behind_hanging_threads(code: int) -> None:
    """End here if a call to an engine that hangs still holds its thread, for up to a minute."""
    threads = [each for each in threading.enumerate() if each is not threading.current_thread()]
    for thread in threads:
        if not thread.daemon:
            thread.join(_THREADS_S)
            if thread.is_alive():
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
