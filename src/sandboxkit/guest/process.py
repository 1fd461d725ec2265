"""Channels that are a child process: programs, and file operations."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import termios
from typing import Any, Dict, List, Optional

from . import files, spawn, tree, wire
from .channels import Channel, Client, Sink, Source, failure
from .loop import Loop, Watch, read_some
from .streams import Sender

_SWEEP_S = 0.02  # between two looks for what still lives after a kill
_SWEEPS = 150
_TIDY_S = 1.0  # for a file operation to remove what it has half written
_DETACHED_KEEP = wire.WINDOW // 2  # bytes of output kept while nobody is connected
_EOT = b"\x04"  # end of input, typed on a terminal


class Child(Channel):
    """What programs and file operations share: pipes, and an end."""

    pid = 0
    alive = False

    def pipe_in(self, stream: int) -> int:
        """A pipe towards the child; returns the child's end."""
        child_end, mine = os.pipe2(os.O_CLOEXEC)
        sink: Sink = Sink(self, stream, mine, lambda _fd: sink.close(), lambda _error: None)
        return child_end

    def pipe_out(self, stream: int) -> int:
        mine, child_end = os.pipe2(os.O_CLOEXEC)
        Source(self, stream, mine, lambda _error: self.end(stream))
        return child_end


class Program(Child):
    """A program of the caller's: `exec` and `spawn`."""

    inputs = (wire.STDIN,)
    outputs = (wire.STDOUT, wire.STDERR)

    def __init__(self, client: Client, number: int, loop: Loop, request: Dict[str, Any]) -> None:
        super().__init__(client, number, loop)
        self.id = "%s-%d" % (client.token[:16], number)
        self.detach = bool(request.get("detach"))
        self.argv: List[str] = request["argv"]
        self.user = spawn.find_user(request["user"], request["home"])
        self._oom_before = _oom_kills()
        self._terminal = -1
        size = request.get("pty")
        streams = self._pty(size) if size else self._pipes(bool(request.get("stdin")))
        try:
            env = self._environment(request["env"])
            self.pid = spawn.program(self.user, streams, self.argv, env, request["cwd"])
        except BaseException:
            super().abort()
            raise
        finally:
            for fd in set(streams[:3]):
                if fd != subprocess.DEVNULL:
                    os.close(fd)
        self.alive = True
        loop.on_child(self.pid, self._exited)
        self.say_reply({"pid": self.pid})

    def _environment(self, wanted: Dict[str, str]) -> Dict[str, str]:
        user = {"HOME": self.user.home, "USER": self.user.name, "LOGNAME": self.user.name}
        return {**os.environ, **user, **wanted, spawn.MARKER: self.id}

    def _pipes(self, stdin: bool) -> spawn.Streams:
        inward = self.pipe_in(wire.STDIN) if stdin else subprocess.DEVNULL
        return spawn.Streams(inward, self.pipe_out(wire.STDOUT), self.pipe_out(wire.STDERR))

    def _pty(self, size: List[int]) -> spawn.Streams:
        terminal, slave = os.openpty()
        self._terminal = terminal
        self._resize(size)
        Source(self, wire.STDOUT, os.dup(terminal), lambda _error: self.end(wire.STDOUT))
        Sink(self, wire.STDIN, terminal, _type_end, lambda _error: None)
        self.end(wire.STDERR)
        return spawn.Streams(slave, slave, slave, tty=True)

    def _resize(self, size: List[int]) -> None:
        rows, columns = size
        packed = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, packed)

    def overflow(self, sender: Sender) -> None:
        if self.detach:
            sender.drop_oldest(_DETACHED_KEEP)

    def _exited(self, code: int) -> None:
        self.alive = False
        self.say_done({"exit": code, "oom": _oom_kills() > self._oom_before})

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
        else:
            super().call(value)

    def _kill(self, grace_s: float) -> None:
        """TERM to the whole tree, then KILL when the grace has passed; answers at the end."""
        if grace_s > 0:
            tree.signal_all(self.pid, self.alive, self.id, self.user, signal.SIGTERM)
        sweeps = int(grace_s / _SWEEP_S)
        self._until_gone(sweeps, sweeps + _SWEEPS, answer=True)

    def _until_gone(self, grace: int, left: int, answer: bool) -> None:
        if grace > 0:
            gone = not self.alive and not tree.members(self.id, self.user)
        else:
            found = tree.signal_all(self.pid, self.alive, self.id, self.user, signal.SIGKILL)
            gone = not self.alive and not found
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
    """One file operation, in a child of its own: as the right user, never blocking the loop."""

    inputs = (wire.STDIN,)
    outputs = (wire.STDOUT,)

    def __init__(self, client: Client, number: int, loop: Loop, request: Dict[str, Any]) -> None:
        super().__init__(client, number, loop)
        user = spawn.find_user(request["user"], request["home"])
        body = files.body(files.OPERATIONS[request["do"]], request)
        ends = self.pipe_in(wire.STDIN), self.pipe_out(wire.STDOUT)
        try:
            self.pid, status = spawn.function(user, *ends, body)
        except BaseException:
            super().abort()
            raise
        finally:
            for fd in ends:
                os.close(fd)
        self.alive = True
        self._result = b""
        self._code: Optional[int] = None
        os.set_blocking(status, False)
        self._status = Watch(loop, status, on_readable=self._read_status)
        self._status.want(read=True)
        loop.on_child(self.pid, self._exited)

    def _read_status(self) -> None:
        data = read_some(self._status.fd, 65536)
        if data is None:
            return
        self._result += data
        if not data:
            self._status.close()
            self._finish()

    def _exited(self, code: int) -> None:
        self.alive = False
        self._code = code
        self._finish()

    def _finish(self) -> None:
        if not self._status.closed or self._code is None:
            return
        if self._result:
            self.say_done(json.loads(self._result))
        else:
            self.say_done(failure("file", "the operation was killed (%d)" % self._code))

    def abort(self, reset: bool = False) -> None:
        self._end(signal.SIGTERM)
        self.loop.later(_TIDY_S, lambda: self._end(signal.SIGKILL))
        super().abort()

    def _end(self, number: int) -> None:
        if self.alive:
            tree.signal_group(self.pid, number)


def _type_end(terminal: int) -> None:
    try:
        os.write(terminal, _EOT)
    except OSError:
        pass


def _oom_kills() -> int:
    """How many processes of this sandbox the kernel has killed for memory."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path, "rb") as counters:
                for line in counters:
                    if line.startswith(b"oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0
