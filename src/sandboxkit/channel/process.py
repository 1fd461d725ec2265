"""Processes in the sandbox: streams, signals, an exit code; and `exec` on top."""

from __future__ import annotations

import contextlib
import math
import signal as signals
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import anyio

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.remote import RemoteChannel
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import (
    CommandFailedError,
    ExecTimeoutError,
    InvalidSpecError,
    OperationTimeoutError,
    ProtocolError,
    SandboxError,
)
from sandboxkit.guest import wire
from sandboxkit.spec import USER_NAME, check_env

PIPE: Final = "pipe"
"""For `spawn(stdin=PIPE)`: the process gets a pipe; otherwise its input is empty."""

OUTPUT_LIMIT: Final = 10 * 1024 * 1024
"""Bytes of each stream that `exec` keeps by default: the head and the tail."""

TERMINAL: Final = (24, 80)
"""Rows and columns where none are given."""

MAX_NOTE: Final = 16 * 1024
"""Characters of a process's note."""

KILL_GRACE_S: Final = 2.0
"""Seconds between TERM and KILL when a command is ended by its time-out."""

_KILL_S = 10.0  # what a kill may take on top of its grace
_DRAIN_S = 0.5  # after the exit, for output that something in the background still holds
_MAX_SIZE = 65535  # rows or columns of a terminal
_MAX_ARG = 128 * 1024  # bytes of one argument that Linux accepts (MAX_ARG_STRLEN)


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


class OutputStream:
    """A stream of bytes out of the sandbox, read no faster than it is taken."""

    def __init__(self, channel: RemoteChannel, stream: int) -> None:
        self._channel, self._stream = channel, stream

    @property
    def lost_bytes(self) -> int:
        """Bytes that a detached process wrote while no host was there to keep up."""
        return self._channel.receivers[self._stream].lost

    @property
    def mark(self) -> str:
        """What the last `acknowledge` said, of this host or an earlier one; else empty."""
        return self._channel.mark(self._stream)

    @property
    def unacknowledged(self) -> int:
        """Bytes that have come, and that the sandbox still keeps; it keeps 1 MiB at most."""
        receiver = self._channel.receivers[self._stream]
        return receiver.received - receiver.acked

    @property
    def begins(self) -> int:
        """The offset of the first byte that comes to this host: what earlier ones have taken."""
        return self._channel.begins.get(self._stream, 0)

    def acknowledge(self, offset: int, mark: str = "") -> None:
        """Say that what came before `offset` was dealt with: it comes to no host again.

        For a process that was spawned, or taken up, with `acknowledge="by_hand"`.

        Args:
            offset: In bytes, from the beginning of the stream.
            mark: Kept in the sandbox with it, for the host that takes the process up after
                this one; 8 KiB at most. An empty one leaves the last.
        """
        self._channel.acknowledge(self._stream, offset, mark)

    async def receive(self, max_bytes: int = wire.CHUNK) -> bytes:
        """The next bytes, at most `max_bytes` (256 KiB); waits until there are some.

        Cancelling loses nothing.

        Raises:
            anyio.EndOfStream: The stream has ended.
            SandboxError: The sandbox or the connection was lost.
        """
        return await self._channel.receive(self._stream, max_bytes)

    async def read(self) -> bytes:
        """All the rest, until the stream ends."""
        return b"".join([chunk async for chunk in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                chunk = await self.receive()
            except anyio.EndOfStream:
                return
            yield chunk


class InputStream:
    """A stream of bytes into the sandbox."""

    def __init__(self, channel: RemoteChannel) -> None:
        self._channel = channel

    @property
    def offset(self) -> int:
        """Bytes that were written to it, by all hosts."""
        return self._channel.senders[wire.STDIN].end

    async def write(self, data: bytes) -> None:
        """Send `data`; waits while the process is 1 MiB behind.

        What a process does not read any more is dropped, without an error.

        Raises:
            SandboxError: The sandbox or the connection was lost.
        """
        await self._channel.write(wire.STDIN, data)

    async def close(self) -> None:
        """End the stream: the process reads the end of its input. Idempotent."""
        self._channel.write_eof(wire.STDIN)


class Process:
    """A process in the sandbox.

    Leaving its `async with` block ends it and all that it started, unless it was
    spawned with `detach=True`.

    Attributes:
        argv: The command.
        id: Its name for every host: `Sandbox.process(id)` takes a detached one up.
        stdin: What it reads; nothing unless it was spawned with `stdin=PIPE`.
        stdout: What it writes; with a terminal, all of it.
        stderr: Likewise, errors.
    """

    def __init__(
        self, channel: RemoteChannel, argv: Sequence[str], *, process_id: str, detach: bool
    ) -> None:
        self._channel = channel
        self._detach = detach
        self.argv = tuple(argv)
        self.id = process_id
        self._note: str | None = None  # as it was changed here
        self.stdin = InputStream(channel)
        self.stdout = OutputStream(channel, wire.STDOUT)
        self.stderr = OutputStream(channel, wire.STDERR)

    def __repr__(self) -> str:
        state = "running" if self.exit_code is None else f"exit code {self.exit_code}"
        return f"<Process {self.argv[0]} pid={self.pid} {state}>"

    @property
    def pid(self) -> int | None:
        """Its number inside the sandbox."""
        pid = (self._channel.reply or {}).get("pid")
        return pid if isinstance(pid, int) else None

    @property
    def exit_code(self) -> int | None:
        """The exit code (a signal is its negative number); None while it runs."""
        code = (self._channel.done or {}).get("exit")
        return code if isinstance(code, int) else None

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel killed a process of the sandbox for memory meanwhile."""
        return bool((self._channel.done or {}).get("oom"))

    @property
    def note(self) -> str:
        """What its hosts have noted of it, out of its own reach; see `set_note`."""
        if self._note is not None:
            return self._note
        said = self._channel.reply if self._channel.request_is("adopt") else self._channel.request
        return str((said or {}).get("note") or "")[:MAX_NOTE]

    @property
    def input_is_whole(self) -> bool:
        """Whether an earlier host has left no line of its input half written."""
        return (self._channel.reply or {}).get("whole") is not False

    async def set_note(self, note: str) -> None:
        """Change the note, which the next host that takes the process up finds.

        Args:
            note: 16,384 characters at most.

        Raises:
            InvalidSpecError: It is longer.
            SandboxError: The sandbox or the connection was lost.
        """
        check_note(note)
        await self._channel.call({"note": note})
        self._note = note

    async def wait(self) -> int:
        """Wait for the end; the exit code. Cancelling it leaves the process alone.

        Raises:
            SandboxError: The sandbox or the connection was lost; no exit code is invented.
        """
        await self._channel.finished()
        return exit_code_of(self._channel)

    async def signal(self, number: int) -> None:
        """Send a signal to the process and its group. After its end, nothing happens."""
        if not 1 <= number < signals.NSIG:
            raise InvalidSpecError(f"{number} is not a signal number")
        if self._channel.done is None:
            await self._channel.call({"signal": int(number)})

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the process the size of its terminal."""
        check_size(rows, columns)
        await self._channel.call({"resize": [rows, columns]})

    async def kill(self, grace_s: float = KILL_GRACE_S) -> None:
        """End the process and all that it started: TERM, the grace, KILL. Idempotent.

        What has left its group (`setsid`, `nohup`, a double fork) is found by a marker
        in its environment.
        """
        if not self._channel.closed and self._channel.failure is None:
            await self._channel.call({"kill": grace_s})

    async def aclose(self) -> None:
        """Let go of the process, and end it if it still runs and is not detached.

        Idempotent, bounded, and not cut short by cancellation.
        """
        try:
            if not self._channel.closed and not self._detach and self._channel.done is None:
                await kill_quietly(self._channel, 0.0)
        finally:
            self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


async def start(
    client: GuestClient,
    request: Mapping[str, Any],
    name: Sequence[str],
    process_id: str | None,
    *,
    by_hand: bool = False,
) -> Process:
    """Start a program, or take up a detached one.

    Args:
        client: The way into the sandbox.
        request: What the guest is asked.
        name: The command, or what there is to call it.
        process_id: The id of a process that exists; None for a new one.
        by_hand: Whether the caller acknowledges what it has of stdout.

    Raises:
        ExecStartError: It could not be started, or there is none of this id.
    """
    channel = client.channel(request, inputs=(wire.STDIN,), outputs=(wire.STDOUT, wire.STDERR))
    if by_hand:
        channel.by_hand(wire.STDOUT)
    known = process_id is not None
    process = Process(
        channel,
        name,
        process_id=process_id if process_id is not None else client.process_id(channel),
        detach=known or bool(request.get("detach")),
    )
    try:
        await channel.started()
    except BaseException:
        if known:  # it is not ours to end
            channel.close()
        else:
            await process.aclose()
        raise
    return process


def request_for(
    argv: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: str | None,
) -> dict[str, Any]:
    """The request for a program, checked.

    Raises:
        InvalidSpecError: What is wrong, before anything is started.
    """
    if isinstance(argv, str | bytes) or not argv or not _all_text(argv):
        raise InvalidSpecError(
            f"argv must be a list of strings, not {argv!r}; for a shell line use sandbox.sh()"
        )
    for argument in argv:
        if "\0" in argument:
            raise InvalidSpecError("an argument holds NUL, which no program can be given")
        if len(argument.encode("utf-8", "surrogateescape")) >= _MAX_ARG:
            raise InvalidSpecError(
                f"an argument is longer than {_MAX_ARG - 1} bytes, the most that Linux passes; "
                "use stdin or a file"
            )
    if not argv[0]:
        raise InvalidSpecError("the program's name is empty")
    if cwd is not None and ("\0" in cwd or cwd.startswith("/proc/")):
        raise InvalidSpecError(f"cwd must be a path outside /proc, not {cwd!r}")
    if user is not None and not USER_NAME.fullmatch(user):
        raise InvalidSpecError(f"user must be a name or a number, not {user!r}")
    if env and not _all_text(env.values()):
        raise InvalidSpecError("env: every value must be a string")
    try:
        check_env(env or {})
    except ValueError as error:
        raise InvalidSpecError(f"env: {error}") from None
    return {"op": "exec", "argv": list(argv), "cwd": cwd, "env": dict(env or {}), "user": user}


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


def check_note(note: str) -> None:
    """Check a note.

    Raises:
        InvalidSpecError: It is too long.
    """
    if len(note) > MAX_NOTE:
        raise InvalidSpecError(f"a note has {MAX_NOTE} characters at most, not {len(note)}")


def check_size(rows: int, columns: int) -> None:
    """Check the size of a terminal.

    Raises:
        InvalidSpecError: No terminal has it.
    """
    if not (1 <= rows <= _MAX_SIZE and 1 <= columns <= _MAX_SIZE):
        raise InvalidSpecError(
            f"a terminal has 1 to {_MAX_SIZE} rows and columns: {rows}, {columns}"
        )


def _all_text(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def exit_code_of(channel: RemoteChannel) -> int:
    """The exit code in a process's last word.

    Raises:
        ExecStartError: It could not be started.
        ProtocolError: There is none.
    """
    channel.raise_error()
    code = (channel.done or {}).get("exit")
    if type(code) is not int:
        raise ProtocolError(f"the guest sent {code!r} as an exit code")
    return code


async def kill_quietly(channel: RemoteChannel, grace_s: float) -> None:
    """Kill what runs in the channel, within bounds.

    The loss of the sandbox, or its silence, is no news here: whoever cleans up has a
    reason of his own to tell.
    """

    async def kill() -> None:
        with contextlib.suppress(SandboxError), anyio.move_on_after(grace_s + _KILL_S):
            await channel.call({"kill": grace_s})

    await run_to_end(kill(), deadline_s=grace_s + 2 * _KILL_S)


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
            with anyio.move_on_after(_KILL_S):
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
