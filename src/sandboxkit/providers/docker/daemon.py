"""One `dockerd` of our own: started, awaited, and stopped by exactly its process.

A process is known by its pid and its start time, so that a pid that the kernel has
given to another program meanwhile is never signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import anyio
from anyio import to_thread

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import ProviderUnavailableError
from sandboxkit.providers.docker.connection import connect
from sandboxkit.providers.docker.endpoint import Endpoint
from sandboxkit.providers.docker.engine_paths import EnginePaths

PING_S = 5.0
STOP_S = 40.0  # dockerd gives its containers 10 to 15 s, then ends them
LOG_LINES = 12
_PROGRAMS = ":".join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
_KEPT_VARIABLES = frozenset({"HOME", "LANG", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})


class Daemon:
    """A dockerd that sandboxkit started.

    Args:
        paths: Where it keeps its things.
        pid: Its process, if it runs already.
        started: That process's start time, in clock ticks since the machine's start.
    """

    def __init__(self, paths: EnginePaths, pid: int = 0, started: int | None = None) -> None:
        self.paths = paths
        self.pid = pid
        self._started = started

    @classmethod
    def recorded(cls, paths: EnginePaths) -> Daemon | None:
        """The daemon that an earlier process of ours started, if it still runs."""
        try:
            record = json.loads(paths.record.read_text())
            daemon = cls(paths, int(record["pid"]), int(record["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return daemon if daemon.alive() else None

    def alive(self) -> bool:
        """Whether it still runs."""
        if not self.pid or self._started is None:
            return False
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return _start_time(self.pid) == self._started

    async def start(self, *, deadline_s: float) -> None:
        """Start it and wait until it answers. Failure or cancellation stops it again.

        Args:
            deadline_s: Seconds that it may take until it answers.

        Raises:
            ProviderUnavailableError: It ended or did not answer in time; the message
                carries the last lines of its log.
        """
        try:
            await run_to_end(to_thread.run_sync(self._launch), deadline_s=PING_S)
            with anyio.move_on_after(deadline_s):
                while self.alive():
                    if await answers(self.paths.socket):
                        return
                    await anyio.sleep(0.05)
            raise ProviderUnavailableError(
                await to_thread.run_sync(self._why_it_failed), op="bring_up", provider="docker"
            )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop it, and what it leaves behind. Nothing happens if it has ended already.

        Bounded by about a minute, and not cut short by cancellation.
        """
        await run_to_end(self._stop(), deadline_s=STOP_S + 20)

    def _launch(self) -> None:
        program = find_program("dockerd")
        if program is None:
            raise ProviderUnavailableError(
                "dockerd is not installed.", op="bring_up", provider="docker"
            )
        self.paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        argv = [*self.paths.launcher, program, "--host", self.paths.host, *self.paths.arguments]
        # No Popen object: it would warn about, and wait for, a child that outlives us.
        self.pid = os.posix_spawnp(
            argv[0],
            argv,
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.paths.log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        self._started = _start_time(self.pid)
        record = {"pid": self.pid, "started": self._started}
        self.paths.record.write_text(json.dumps(record))

    def _why_it_failed(self) -> str:
        verb = "does not answer" if self.alive() else "could not start"
        lines = self.paths.log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if "level=info" not in line] or lines
        tail = "\n".join(f"  {line[:300]}" for line in telling[-LOG_LINES:])
        return (
            f"dockerd is installed but {verb}. It needs root with all capabilities and the "
            "kernel's cgroups, which a container without --privileged does not have. "
            f"From the end of its log, {self.paths.log}:\n{tail}"
        )

    async def _stop(self) -> None:
        if self.alive() and not await self._end(signal.SIGTERM, STOP_S):
            await self._end(signal.SIGKILL, 10)
        await to_thread.run_sync(self._clear_up)

    async def _end(self, number: signal.Signals, wait_s: float) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        with anyio.move_on_after(wait_s):
            while self.alive():  # noqa: ASYNC110 - it tells nobody
                await anyio.sleep(0.05)
            return True
        return False

    def _clear_up(self) -> None:
        if not self.pid or self.alive():
            return
        # A dockerd that was killed may leave its own containerd behind.
        orphan = _owner(self.paths.containerd_pid_file, "containerd")
        if orphan is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGTERM)
        self.paths.record.unlink(missing_ok=True)


async def ping(socket: Path) -> None:
    """Ask the engine behind `socket` whether it is well.

    Raises:
        OSError: It does not answer; `PermissionError` where we may not ask.
    """
    try:
        with anyio.fail_after(PING_S):
            async with await connect(Endpoint(f"unix://{socket}", "its socket")) as stream:
                await stream.send(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
                status = (await stream.receive()).split(b"\r\n", 1)[0]
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise ConnectionResetError(f"The engine closed {socket}.") from error
    if b" 200 " not in status + b" ":
        raise ConnectionError(f"The engine behind {socket} is not well: {status[:80]!r}.")


async def answers(socket: Path) -> bool:
    """Whether an engine answers behind `socket`."""
    try:
        await ping(socket)
    except OSError:
        return False
    return True


def find_program(name: str) -> str | None:
    """The path of a system program, looked for in the system directories as well."""
    return shutil.which(name, path=_PROGRAMS)


def running_daemon(paths: EnginePaths) -> int | None:
    """The pid of the dockerd that `paths` already has, ours or not.

    Pid files that name a process that is gone, or another program, are removed:
    dockerd would refuse to start, or wait for a containerd that is none.
    """
    _owner(paths.containerd_pid_file, "containerd")
    return _owner(paths.pid_file, "dockerd")


def _owner(pid_file: Path, program: str) -> int | None:
    try:
        pid = int(pid_file.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        pid = 0
    if pid and _start_time(pid) is not None and _name(pid) == program:
        return pid
    pid_file.unlink(missing_ok=True)
    return None


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> int | None:
    """The start time of a living process, in clock ticks; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _environment() -> dict[str, str]:
    """What dockerd is given of our environment: no key of the caller's, ever."""
    kept = {name: value for name, value in os.environ.items() if name.upper() in _KEPT_VARIABLES}
    return {**kept, "PATH": _PROGRAMS}
