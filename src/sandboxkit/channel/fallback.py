"""Without the guest: for images that have no Python.

Commands run by the backend's own `spawn`, files by small shell scripts. What needs
the guest (spawn, streams, tunnels, detached processes) is refused by name. Over a
connection that carries lines of text alone, bytes cross as base64, both ways.
"""

from __future__ import annotations

import base64
import binascii
import math
import signal as signals
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import anyio

from sandboxkit.channel.execution import Capture, ExecResult
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import (
    OperationTimeoutError,
    ProtocolError,
    SandboxError,
    UnsupportedError,
)
from sandboxkit.providers.base import ByteChannel, Command, Difference, SandboxHandle

_KILL_S = 10.0
_CHECK_S = 30.0
_PIECE = 64 * 1024

# Says its number on stderr before it becomes the command, so that it can be ended.
_WRAPPER = 'echo "$$" >&2; if [ -n "$1" ]; then cd "$1" || exit 126; fi; shift; exec "$@"'

# The same with all three streams in base64, save the number, which must come at once. The
# command is a session of its own where that can be had, so that what ends it leaves the
# encoders alone. 3 and 4 are the connection's stdout and stderr, 5 takes the exit code, and
# 6 is the pipe of stdout.
_INNER = """\
echo "$$" >&4; exec 4>&-; if [ -n "$1" ]; then cd "$1" || exit 126; fi; shift; exec "$@"
"""
_ENCODED = """\
exec 3>&1 4>&2 2>/dev/null
inner=$1; shift
if command -v setsid; then apart=setsid; else apart=; fi >&2
code=$(
  exec 5>&1
  { { { base64 -d | $apart /bin/sh -c "$inner" sh "$@" 2>&1 >&6 3>&- 5>&- 6>&-
        echo "$?" >&5; } 3>&- | base64 >&4 3>&- 5>&- 6>&-; } 6>&1 | base64 >&3 4>&- 5>&-; }
)
exit "$code"
"""
_PROBE = "command -v base64"
_TO_LINES = 57 * 1024  # bytes: whole lines of base64


NO_GUEST = tuple(
    Difference(field, "kept by the guest", None, "the image has no Python, and so no guest")
    for field in ("lease_s", "lifetime_s", "idle_timeout_s")
)
"""What does not hold without the guest. On Docker the sandbox ends with its host instead."""


def refuse(what: str) -> NoReturn:
    """Raise the error for what needs the guest."""
    raise UnsupportedError(
        f"{what} needs Python 3.8 or later in the image, and this one has none: "
        "use another image, or add python3 to it",
        code="no_guest",
    )


class Fallback:
    """Commands by the backend's own spawn.

    Args:
        handle: The sandbox.
        keeper: The sandbox's main program, if it lives only while that is held.
        env: Variables of every command.
        workdir: Where commands start.
    """

    def __init__(
        self,
        handle: SandboxHandle,
        keeper: ByteChannel | None,
        env: Mapping[str, str],
        workdir: str,
    ) -> None:
        self._handle = handle
        self._keeper = keeper
        self._env = env
        self._workdir = workdir
        self._encoded = False

    async def aclose(self) -> None:
        """Let go of the sandbox's main program."""
        if self._keeper is not None:
            await self._keeper.aclose()

    async def check(self) -> None:
        """See that commands can be run, and that their bytes can cross.

        Raises:
            UnsupportedError: Only text can cross, and the image has no `base64`.
            SandboxError: They cannot: the image has no shell, or is for another platform.
        """
        stream = await self._handle.spawn(Command(("/bin/sh", "-c", _PROBE)))
        try:
            with anyio.fail_after(_CHECK_S):
                await _converse(stream, (), Capture(_PIECE))
                code = await stream.wait()
        except TimeoutError as error:
            raise OperationTimeoutError(f"no command ended within {_CHECK_S:g} s") from error
        finally:
            await stream.aclose()
        self._encoded = stream.encoding == "text_lines"
        if self._encoded and code != 0:
            raise UnsupportedError(
                "the image has neither Python 3.8 or later nor `base64`, and this backend "
                "carries only text: use another image, or add python3 to it",
                code="no_guest",
            )

    async def execute(
        self,
        request: Mapping[str, Any],
        *,
        stdin: bytes | None,
        timeout_s: float | None,
        max_output_bytes: int,
    ) -> ExecResult:
        """Run a command to its end, as `process.execute` does where there is a guest."""
        began = time.monotonic()
        capture = _Capture(max_output_bytes, encoded=self._encoded)
        cwd = str(request["cwd"] or self._workdir)
        scripts = (_ENCODED, "sh", _INNER) if self._encoded else (_WRAPPER, "sh")
        argv = ("/bin/sh", "-c", *scripts, cwd, *request["argv"])
        env = {**self._env, **request["env"]}
        stream = await self._handle.spawn(Command(argv, env=env, user=request["user"]))
        try:
            with anyio.move_on_after(math.inf if timeout_s is None else timeout_s) as scope:
                await _converse(stream, self._pieces(stdin or b""), capture)
            timed_out = scope.cancelled_caught
            if timed_out:
                await run_to_end(self._kill(capture.pid, request["user"]), deadline_s=_KILL_S)
                with anyio.move_on_after(_KILL_S):
                    await _converse(stream, (), capture)
            with anyio.fail_after(_KILL_S):
                code = await stream.wait()
        except BaseException:
            await run_to_end(self._kill(capture.pid, request["user"]), deadline_s=_KILL_S)
            raise
        finally:
            await stream.aclose()
        return ExecResult(
            exit_code=-signals.SIGKILL if code is None else code,
            stdout=capture.output(1),
            stderr=capture.output(2),
            timed_out=timed_out,
            oom_killed=False,
            truncated=capture.truncated,
            duration_s=time.monotonic() - began,
            argv=tuple(request["argv"]),
        )

    def _pieces(self, stdin: bytes) -> Iterator[bytes]:
        size = _TO_LINES if self._encoded else _PIECE
        for at in range(0, len(stdin), size):
            piece = stdin[at : at + size]
            yield base64.encodebytes(piece) if self._encoded else piece

    async def _kill(self, pid: int | None, user: str | None) -> None:
        if pid is None:
            return
        # The backend's exec makes the shell a session leader; dash wants the `--`.
        script = f"kill -s KILL -- -{pid} 2>/dev/null || kill -s KILL {pid}"
        try:
            stream = await self._handle.spawn(Command(("/bin/sh", "-c", script), user=user))
            try:
                while await stream.receive() is not None:
                    pass
            finally:
                await stream.aclose()
        except SandboxError:
            return


class _Capture(Capture):
    """Keeps the output, save the first line of stderr: the process's number."""

    def __init__(self, limit: int, *, encoded: bool) -> None:
        super().__init__(limit)
        self._encoded = encoded
        self._begun = {1: b"", 2: b""}  # lines of base64 that have not ended
        self._first: bytes | None = b""
        self.pid: int | None = None

    def __call__(self, stream: int, data: bytes) -> None:
        if stream == 2 and self._first is not None:
            line, newline, rest = (self._first + data).partition(b"\n")
            if not newline:
                self._first = line
                return
            self._first, data = None, rest
            self.pid = int(line) if line.isdigit() else None
        super().__call__(stream, self._decoded(stream, data) if self._encoded else data)

    def _decoded(self, stream: int, data: bytes) -> bytes:
        lines, _, rest = (self._begun[stream] + data).rpartition(b"\n")
        self._begun[stream] = rest
        try:
            return binascii.a2b_base64(lines.replace(b"\n", b""), strict_mode=True)
        except binascii.Error as error:
            raise ProtocolError(f"{lines[:100]!r} came where base64 was to come") from error


async def _converse(stream: ByteChannel, stdin: Iterable[bytes], capture: Capture) -> None:
    async def feed() -> None:
        try:
            for piece in stdin:
                await stream.send(piece)
            await stream.send_eof()
        except SandboxError:
            return  # it ended without reading its input

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed)
        while (output := await stream.receive()) is not None:
            capture(output.fd, output.data)
        tasks.cancel_scope.cancel()
