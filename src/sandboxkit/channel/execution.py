"""`exec`: a command that is run to its end, and what it gave."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import anyio

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.process import KILL_GRACE_S, KILL_S, exit_code_of, kill_quietly
from sandboxkit.errors import (
    CommandFailedError,
    ExecTimeoutError,
    InvalidSpecError,
    OperationTimeoutError,
)
from sandboxkit.guest import wire

OUTPUT_LIMIT: Final = 10 * 1024 * 1024
"""Bytes of each stream that `exec` keeps by default: the head and the tail."""

_DRAIN_S = 0.5  # after the exit, for output that something in the background still holds


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command did. That it failed is a result, not an error.

    Attributes:
        exit_code: Its exit code; a signal is its negative number.
        stdout: What it wrote, exactly; the head and the tail if `truncated`.
        stderr: Likewise.
        timed_out: Whether it was ended by the time-out.
        oom_killed: Whether the kernel killed a process of the sandbox for memory
            while it ran, also where the exit code hides it.
        truncated: Whether output is missing: it was over the limit, or something
            left in the background still held a stream 0.5 s after the exit.
        duration_s: Seconds from the request to the result, on the host's clock.
        argv: The command.
    """

    exit_code: int
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
    timed_out: bool
    oom_killed: bool
    truncated: bool
    duration_s: float
    argv: tuple[str, ...]

    @property
    def text(self) -> str:
        """`stdout` as UTF-8, undecodable bytes replaced."""
        return self.stdout.decode("utf-8", "replace")

    def check(self) -> Self:
        """Return the result if the command succeeded.

        Raises:
            ExecTimeoutError: It was ended by its time-out.
            CommandFailedError: Its exit code is not 0.
        """
        if self.timed_out:
            raise ExecTimeoutError(
                f"{self.argv[0]} was ended by its time-out after {self.duration_s:.1f} s",
                result=self,
                op="exec",
            )
        if self.exit_code != 0:
            reason = " (out of memory)" if self.oom_killed else ""
            said = self.stderr.decode("utf-8", "replace").strip()[-500:]
            raise CommandFailedError(
                f"{self.argv[0]} ended with exit code {self.exit_code}{reason}"
                + (f": {said}" if said else ""),
                result=self,
                op="exec",
            )
        return self


def check_run(stdin: object, timeout_s: float | None, max_output_bytes: int) -> None:
    """Check what `exec` is given besides the program.

    Raises:
        InvalidSpecError: What is wrong.
    """
    if stdin is not None and not isinstance(stdin, bytes | bytearray | memoryview):
        raise InvalidSpecError(f"stdin must be bytes, not {type(stdin).__name__}")
    if timeout_s is not None and not timeout_s > 0:
        raise InvalidSpecError(f"timeout_s must be more than 0, not {timeout_s!r}")
    if max_output_bytes < 0:
        raise InvalidSpecError(f"max_output_bytes must not be negative: {max_output_bytes}")


class Capture:
    """Keeps output up to a limit: the head, and the tail of what came after."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._half = limit // 2
        self._head: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self._tail: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self.truncated = False

    def __call__(self, stream: int, data: bytes) -> None:
        """Take a piece of output."""
        head, tail = self._head[stream], self._tail[stream]
        fits = self._limit - self._half - len(head)
        if fits > 0:
            head += data[:fits]
            data = data[fits:]
        tail += data
        # Trimmed in steps of the limit, so that a flood costs linear time.
        if len(tail) > 2 * self._half + 65536:
            self._trim(tail)

    def _trim(self, tail: bytearray) -> None:
        if len(tail) > self._half:
            self.truncated = True
            del tail[: len(tail) - self._half]

    def output(self, stream: int) -> bytes:
        """What is kept of a stream."""
        self._trim(self._tail[stream])
        return bytes(self._head[stream] + self._tail[stream])


async def execute(
    client: GuestClient,
    request: Mapping[str, Any],
    *,
    stdin: bytes | None,
    timeout_s: float | None,
    max_output_bytes: int,
) -> ExecResult:
    """Run a command to its end. See `Sandbox.exec`."""
    began = time.monotonic()
    capture = Capture(max_output_bytes)
    channel = client.channel(
        {**request, "stdin": stdin is not None},
        inputs=(wire.STDIN,),
        outputs=(wire.STDOUT, wire.STDERR),
        sink=capture,
    )
    try:
        with anyio.move_on_after(math.inf if timeout_s is None else timeout_s) as scope:
            if stdin is not None:
                await channel.write(wire.STDIN, stdin)
                channel.write_eof(wire.STDIN)
            await channel.finished()
        timed_out = scope.cancelled_caught and channel.done is None
        if timed_out:
            await kill_quietly(channel, KILL_GRACE_S)
            with anyio.move_on_after(KILL_S):
                await channel.finished()
            if channel.done is None:
                raise OperationTimeoutError(
                    f"{request['argv'][0]} did not end within its time-out of {timeout_s:g} s, and "
                    "could not be ended either",
                    op="exec",
                )
        exit_code = exit_code_of(channel)
        await channel.until(channel.has_all_output)
        with anyio.move_on_after(_DRAIN_S):
            await channel.until(lambda: channel.ended(wire.STDOUT, wire.STDERR))
    except BaseException:
        if channel.done is None:
            await kill_quietly(channel, 0.0)
        raise
    finally:
        channel.close()
    stdout, stderr = capture.output(wire.STDOUT), capture.output(wire.STDERR)
    return ExecResult(
        exit_code=exit_code,
        stdout=stdout,
        stderr=stderr,
        timed_out=timed_out,
        oom_killed=bool((channel.done or {}).get("oom")),
        truncated=capture.truncated or not channel.ended(wire.STDOUT, wire.STDERR),
        duration_s=time.monotonic() - began,
        argv=tuple(request["argv"]),
    )
