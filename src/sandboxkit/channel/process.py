"""Processes in the sandbox: streams, signals, an exit code."""

from __future__ import annotations

import contextlib
import signal as signals
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import anyio

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.remote import RemoteChannel
from sandboxkit.channel.requests import MAX_NOTE, check_note, check_size
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import (
    InvalidSpecError,
    ProtocolError,
    SandboxError,
)
from sandboxkit.guest import wire

KILL_GRACE_S: Final = 2.0
"""Seconds between TERM and KILL when a command is ended by its time-out."""

KILL_S = 10.0  # what a kill may take on top of its grace


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
        with contextlib.suppress(SandboxError), anyio.move_on_after(grace_s + KILL_S):
            await channel.call({"kill": grace_s})

    await run_to_end(kill(), deadline_s=grace_s + 2 * KILL_S)
