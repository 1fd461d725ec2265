"""A program in a sandbox, as E2B's daemon runs it: output goes to who listens, or nowhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final, Literal

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from e2b.envd.process.process_pb import ProcessConfig, ProcessEvent
from protobuf import Oneof

from sandboxkit.errors import SandboxError
from tests.emulators.machines import Program

_CHUNK: Final = 32 * 1024
_QUEUED: Final = 64  # events for one subscriber, before it slows the program
# Docker tells a signal as a shell does. (Go says -1 and the signal's name.)
_SIGNALS: Final = {134: "aborted", 137: "killed", 139: "segmentation fault", 143: "terminated"}

Queue = asyncio.Queue[ProcessEvent]


class Process:
    """One program.

    Args:
        program: It, in the machine.
        config: What was asked for.
        tag: The name that it may have beside its pid.
        stdin: Whether its stdin stays open for input.

    Attributes:
        end: What became of it, once it has ended.
    """

    def __init__(
        self, program: Program, config: ProcessConfig, tag: str | None, *, stdin: bool
    ) -> None:
        self.pid = program.pid
        self.config, self.tag = config, tag
        self.end: ProcessEvent | None = None
        self.stdin = stdin
        self._program = program
        self._writing = asyncio.Lock()
        self._subscribers: list[Queue] = []
        self._unheard = asyncio.Event()  # set by a kill: its output is not read any more
        self._deadline: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def subscribe(self) -> Queue:
        """Where its output goes from now on."""
        queue = Queue(_QUEUED)
        self._subscribers.append(queue)
        return queue

    def unsubscribe(self, queue: Queue) -> None:
        """Nobody reads this any more; what has been waiting for room goes on."""
        self._subscribers.remove(queue)
        while not queue.empty():
            queue.get_nowait()

    async def run(self, deadline_s: float | None) -> None:
        """Read its output until it ends, or is killed.

        Args:
            deadline_s: When it is killed; the client's own time-out for the stream.
        """
        if not self.stdin:
            await self._program.send_eof()
        if deadline_s is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(deadline_s, self._expire)
        reading = asyncio.create_task(self._read())
        unheard = asyncio.create_task(self._unheard.wait())
        try:
            await asyncio.wait({reading, unheard}, return_when=asyncio.FIRST_COMPLETED)
            code = 137 if self._unheard.is_set() else await self._program.wait()
        except SandboxError:
            code = 137  # the machine is gone
        finally:
            for task in (reading, unheard):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, SandboxError):
                    await task
            if self._deadline is not None:
                self._deadline.cancel()
            await self._program.aclose()
        self.end = _end(code)
        await self._tell(self.end)

    async def _read(self) -> None:
        async for piece in self._program:
            kind: Literal["stdout", "stderr"] = "stdout" if piece.fd == 1 else "stderr"
            for start in range(0, len(piece.data), _CHUNK):
                await self._tell(_output(kind, piece.data[start : start + _CHUNK]))

    async def _tell(self, event: ProcessEvent) -> None:
        for queue in list(self._subscribers):
            if queue in self._subscribers:
                await queue.put(event)

    async def write(self, data: bytes) -> None:
        """Write to its stdin; a client that goes away does not stop the write.

        Raises:
            ConnectError: It has no stdin, or does not read it any more.
        """
        if not self.stdin:
            raise ConnectError(Code.INTERNAL, "error writing to stdin: stdin not enabled or closed")
        writing = asyncio.create_task(self._write(data))
        self._tasks.add(writing)
        writing.add_done_callback(self._written)
        await asyncio.shield(writing)

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            try:
                await self._program.send(data)
            except SandboxError as error:
                raise ConnectError(
                    Code.INTERNAL,
                    "error writing to stdin: error writing to stdin of process "
                    f"'{self.pid}': write |1: broken pipe",
                ) from error

    def _written(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def close_stdin(self) -> None:
        """End its stdin; a second time does nothing."""
        if self.stdin:
            self.stdin = False
            async with self._writing:
                await self._program.send_eof()

    async def kill(self) -> None:
        """SIGKILL for this one process, and not for its children."""
        await self._program.signal(9)
        self._unheard.set()

    def _expire(self) -> None:
        task = asyncio.ensure_future(self.kill())
        self._tasks.add(task)
        task.add_done_callback(self._written)

    async def events(
        self, queue: Queue, *, keepalive_s: float, deadline_s: float | None
    ) -> AsyncGenerator[ProcessEvent, None]:
        """What one stream says of it: its start, its output, its end.

        Raises:
            ConnectError: The stream's time is over.
        """
        clock = asyncio.get_running_loop().time
        over = None if deadline_s is None else clock() + deadline_s
        try:
            start: Oneof[Literal["start"], ProcessEvent.StartEvent]
            start = Oneof("start", ProcessEvent.StartEvent(pid=self.pid))
            yield ProcessEvent(event=start)
            while True:
                wait_s = keepalive_s if over is None else min(keepalive_s, over - clock())
                event = await _next(queue, wait_s)
                if event is None and over is not None and clock() >= over:
                    raise ConnectError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
                if event is None:
                    event = _keepalive()
                yield event
                if event is self.end:
                    return
        finally:
            self.unsubscribe(queue)


async def _next(queue: Queue, wait_s: float) -> ProcessEvent | None:
    try:
        async with asyncio.timeout(wait_s):
            return await queue.get()
    except TimeoutError:
        return None


def _keepalive() -> ProcessEvent:
    event: Oneof[Literal["keepalive"], ProcessEvent.KeepAlive]
    event = Oneof("keepalive", ProcessEvent.KeepAlive())
    return ProcessEvent(event=event)


def _output(kind: Literal["stdout", "stderr"], data: bytes) -> ProcessEvent:
    out: Oneof[Literal["stdout"], bytes] = Oneof("stdout", data)
    err: Oneof[Literal["stderr"], bytes] = Oneof("stderr", data)
    said = ProcessEvent.DataEvent(output=out if kind == "stdout" else err)
    event: Oneof[Literal["data"], ProcessEvent.DataEvent] = Oneof("data", said)
    return ProcessEvent(event=event)


def _end(code: int) -> ProcessEvent:
    if code in _SIGNALS:
        status = f"signal: {_SIGNALS[code]}"
        end = ProcessEvent.EndEvent(exit_code=-1, exited=False, status=status, error=status)
    elif code:
        status = f"exit status {code}"
        end = ProcessEvent.EndEvent(exit_code=code, exited=True, status=status, error=status)
    else:
        end = ProcessEvent.EndEvent(exit_code=0, exited=True, status="exit status 0")
    event: Oneof[Literal["end"], ProcessEvent.EndEvent] = Oneof("end", end)
    return ProcessEvent(event=event)
