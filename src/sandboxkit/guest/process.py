"""Channels that are a child process: programs, and file operations."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import termios
from typing import Any, Callable, Dict, List, Optional

from . import files, spawn, tree, wire
from .channels import Channel, Client, Sink, Source, failure
from .loop import Loop, widen
from .starter import Starters
from .workers import Worker, Workers

_SWEEP_S = 0.02  # between two looks for what still lives after a kill
_SWEEPS = 150
_DETACHED_KEEP = wire.WINDOW // 2  # bytes of output kept while nobody is connected
_OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_MAX_MARK = 8 * 1024  # bytes
_EOT = b"\x04"  # end of input, typed on a terminal


class Child(Channel):
    """What programs and file operations share: pipes."""

    def __init__(self, client: Client, number: int, loop: Loop) -> None:
        super().__init__(client, number, loop)
        self._ends: List[int] = []  # the child's; ours only until it has started

    def start(self, begin: Callable[[], None]) -> None:
        """Call `begin`, which makes pipes and starts the child, and tidy up after it."""
        try:
            begin()
        except BaseException:
            Channel.abort(self)
            raise
        finally:
            for fd in self._ends:
                os.close(fd)

    def pipe_in(self, stream: int) -> int:
        """A pipe towards the child; returns the child's end."""
        child_end, mine = os.pipe2(os.O_CLOEXEC)
        self._ends.append(child_end)
        sink: Sink = Sink(self, stream, mine, lambda _fd: sink.close(), lambda _error: None)
        return child_end

    def pipe_out(self, stream: int) -> int:
        mine, child_end = os.pipe2(os.O_CLOEXEC)
        self._ends.append(child_end)
        Source(self, stream, mine, lambda _error: self.end(stream))
        return child_end


class Program(Child):
    """A program of the caller's: `exec` and `spawn`."""

    inputs = (wire.STDIN,)
    outputs = (wire.STDOUT, wire.STDERR)

    def __init__(
        self, client: Client, number: int, loop: Loop, starters: Starters, request: Dict[str, Any]
    ) -> None:
        super().__init__(client, number, loop)
        self.id = "%s-%d" % (client.token[:16], number)
        self.detach = bool(request.get("detach"))
        self._lossless = bool(request.get("lossless"))  # its stdout waits for a host
        self.note = spawn.checked_note(request.get("note"))
        self._marks: Dict[str, str] = {}
        self._whole = True  # no line of its input is half written
        self.argv: List[str] = request["argv"]
        self.user = spawn.find_user(request["user"], request["home"])
        self.pid = 0
        self.alive = self.adrift = self.held = False
        self._oom_before = _oom_kills()
        self._terminal = -1
        try:
            self.start(lambda: self._begin(starters, request))
        except spawn.StartError as error:
            if error.code == "lost":  # it may run all the same
                self._until_gone(0, _SWEEPS, answer=False)
            raise
        self.alive = True
        loop.on_child(self.pid, self._exited)
        self.say_reply({"pid": self.pid})

    @property
    def busy(self) -> bool:
        """One that waits is busy only where its host has left it in the middle of something."""
        return self.alive and (self.held or not self.passive)

    def _begin(self, starters: Starters, request: Dict[str, Any]) -> None:
        size = request.get("pty")
        streams = self._pty(size) if size else self._pipes(bool(request.get("stdin")))
        env = self._environment(request["env"])
        self.pid = starters.program(self.user, streams, self.argv, env, request["cwd"])

    def _environment(self, wanted: Dict[str, str]) -> Dict[str, str]:
        user = {"HOME": self.user.home, "USER": self.user.name, "LOGNAME": self.user.name}
        return {**os.environ, **user, **wanted, spawn.MARKER: self.id}

    def _pipes(self, stdin: bool) -> spawn.Streams:
        inward = self.pipe_in(wire.STDIN) if stdin else subprocess.DEVNULL
        return spawn.Streams(inward, self.pipe_out(wire.STDOUT), self.pipe_out(wire.STDERR))

    def _pty(self, size: List[int]) -> spawn.Streams:
        self._terminal, slave = os.openpty()
        self._ends.append(slave)
        Sink(self, wire.STDIN, self._terminal, _type_end, lambda _error: None)
        self._resize(size)
        copy = os.dup(self._terminal)
        Source(self, wire.STDOUT, copy, lambda _error: self.end(wire.STDOUT))
        self.end(wire.STDERR)
        return spawn.Streams(slave, slave, slave, tty=True)

    def _resize(self, size: List[int]) -> None:
        rows, columns = size
        packed = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, packed)

    def room(self, stream: int) -> int:
        sender = self.senders[stream]
        if self.adrift and not (self._lossless and stream == wire.STDOUT):
            sender.drop_oldest(_DETACHED_KEEP)
        return sender.room

    def set_adrift(self) -> None:
        """No host has it any more: keep the end of its output, and let it run."""
        self.client, self.adrift = Client(""), True
        for source in self.sources.values():
            source.resume()

    def adopt(self, client: Client, number: int) -> None:
        """Another host takes it up, where the last one has left it."""
        self.client, self.number, self.adrift = client, number, False
        self.answer = (0, None)
        offsets = {str(stream): sender.taken for stream, sender in self.senders.items()}
        receiver = self.receivers[wire.STDIN]
        if not receiver.ended:
            offsets[str(wire.STDIN)] = receiver.received
        self.reply = {
            "pid": self.pid,
            "offsets": offsets,
            "note": self.note,
            "marks": dict(self._marks),
            "whole": self._whole,
        }
        self.resume({})

    def on_data(self, stream: int, offset: int, data: bytes) -> None:
        if data:
            self._whole = data.endswith(b"\n")
        super().on_data(stream, offset, data)

    def on_ack(self, stream: int, offset: int, mark: bytes = b"") -> None:
        super().on_ack(stream, offset)
        if mark and len(mark) <= _MAX_MARK:
            self._marks[str(stream)] = mark.decode("utf-8", "replace")

    def _exited(self, code: int) -> None:
        self.alive = False
        # Whatever holds the streams open now, this is all that was written until here.
        output = {
            str(n): self.senders[n].end + source.waiting for n, source in self.sources.items()
        }
        oom = _oom_kills() > self._oom_before
        self.say_done({"exit": code, "oom": oom, "output": output})

    def call(self, value: Dict[str, Any]) -> None:
        if "signal" in value:
            if self.alive:
                tree.signal_group(self.pid, int(value["signal"]))
            self.say_return({"delivered": self.alive})
        elif "resize" in value and self._terminal != -1:
            if self.alive:
                self._resize(value["resize"])
            self.say_return({})
        elif "kill" in value:
            self._kill(float(value["kill"]))
        elif "note" in value:
            self.note = spawn.checked_note(value["note"])
            self.say_return({})
        else:
            super().call(value)

    def _kill(self, grace_s: float) -> None:
        """TERM to the whole tree, then KILL when the grace has passed; answers at the end."""
        if grace_s > 0:
            try:
                tree.signal_all(self.pid, self.alive, self.id, self.user, signal.SIGTERM)
            except OSError:  # out of descriptors: the group has got it
                pass
        sweeps = int(grace_s / _SWEEP_S)
        self._until_gone(sweeps, sweeps + _SWEEPS, answer=True)

    def _until_gone(self, grace: int, left: int, answer: bool) -> None:
        try:
            if grace > 0:
                found = len(tree.members(self.id, self.user))
            else:
                found = tree.signal_all(self.pid, self.alive, self.id, self.user, signal.SIGKILL)
            gone = not self.alive and not found
        except OSError:  # out of descriptors: look again
            gone = False
        if not gone and left > 0:
            again = lambda: self._until_gone(grace - 1, left - 1, answer)  # noqa: E731
            self.loop.later(_SWEEP_S, again)
        elif answer:
            self.say_return({"gone": gone})

    def abort(self, reset: bool = False) -> None:
        if self.alive:
            self._until_gone(0, _SWEEPS, answer=False)
            super().abort()
            return
        # Something it left in the background may still write.
        for source in self.sources.values():
            source.discard()
        for sink in self.sinks.values():
            sink.close()


class FileOperation(Child):
    """One file operation, done by a worker of the right user."""

    inputs = (wire.STDIN,)
    outputs = (wire.STDOUT,)

    def __init__(
        self, client: Client, number: int, loop: Loop, workers: Workers, request: Dict[str, Any]
    ) -> None:
        super().__init__(client, number, loop)
        self._worker: Optional[Worker] = None
        self.start(lambda: self._begin(workers, request))

    def _begin(self, workers: Workers, request: Dict[str, Any]) -> None:
        user = spawn.find_user(request["user"], request["home"])
        streams = files.STREAMS.get(request["do"], ())
        ends = [self.pipe_in(n) if n == wire.STDIN else self.pipe_out(n) for n in streams]
        for fd in ends:
            widen(fd, wire.CHUNK)  # not for programs, whose pipes may be many
        if wire.STDOUT not in streams:
            self.end(wire.STDOUT)
        order = json.dumps({**request, "env": None, "streams": streams}).encode()
        self._worker = workers.do(user, order, ends, self._answered)

    def _answered(self, answer: Optional[bytes], code: int) -> None:
        if self._worker is None:
            Channel.abort(self)  # the host has forgotten the channel; the worker is done
        elif answer is None:
            self.say_done(failure("file", "the operation was killed (%d)" % code))
        else:
            self.say_done(json.loads(answer))
        self._worker = None

    def abort(self, reset: bool = False) -> None:
        if self._worker is None:
            Channel.abort(self)
            return
        # Its stdin stays open: it must not take the end of the channel for that of the file.
        self._worker.abort()
        self._worker = None
        for source in self.sources.values():
            source.close()


def _type_end(terminal: int) -> None:
    try:
        os.write(terminal, _EOT)
    except OSError:
        pass


class _OomKills:
    """How many processes of this sandbox the kernel has killed for memory."""

    def __init__(self) -> None:
        self._fd = -1
        for path in _OOM_COUNTERS:
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                return
            except OSError:
                continue

    def __call__(self) -> int:
        try:
            lines = os.pread(self._fd, 4096, 0).split(b"\n")
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith(b"oom_kill "))


_oom_kills = _OomKills()
