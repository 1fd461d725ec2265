"""The daemon's sessions: a shell each, which runs one command after the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, Literal

from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import SandboxError
from tests.emulators.daytona.refusals import DAEMON, Refused
from tests.emulators.machines import Machine, MachineGone, Program, StartFailed

MARKS = {1: b"\x01\x01\x01", 2: b"\x02\x02\x02"}
_CLOSE_S = 30.0

_SHELL = ["/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh"]
# Connects the FIFOs of a command with the streams of this program. The last cat is who
# holds the FIFO of stdin open. It ends with the session: of a program that has ended,
# Docker throws away what nobody has read for 2 s.
_PUMP = """
umask 077
mkdir -p "$1" && cd "$1" && head -c "$2" > cmd.sh && mkfifo in out err || exit 1
echo ready
cat out & cat err >&2 &
cat > in
wait
printf '%s\\n' "$3"; printf '%s\\n' "$3" >&2
exec sleep 1000000
"""
# SIGTERM to a session's groups and descendants, SIGKILL to what is left 5 s later.
_END = """
import os, signal, sys, time
roots = set(map(int, sys.argv[1:]))
def members():
    stat = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open("/proc/" + pid + "/stat").read().rpartition(") ")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            stat[int(pid)] = int(fields[1]), int(fields[2])
    found, before = set(roots & set(stat)), None
    while found != before:
        before = set(found)
        found |= {p for p, (parent, group) in stat.items() if parent in found or group in roots}
    return found
def send(number, targets):
    for pid in targets:
        try:
            os.kill(pid, number)
        except OSError:
            pass
everyone = members()
send(signal.SIGTERM, everyone)
deadline = time.monotonic() + 5
while members() & everyone and time.monotonic() < deadline:
    time.sleep(0.02)
send(signal.SIGKILL, members() | everyone & members())
"""


class Labelled:
    """One stream on its way into a log: complete lines, marked, without NULs."""

    def __init__(self, fd: int) -> None:
        self._mark = MARKS[fd]
        self._begun: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """What is complete now."""
        *lines, rest = data.replace(b"\0", b"").split(b"\n")
        if not lines:
            self._begun.append(rest)
            return b""
        lines[0] = b"".join([*self._begun, lines[0]])
        self._begun = [rest] if rest else []
        return b"".join(self._mark + line + b"\n" for line in lines)

    def end(self) -> bytes:
        """The last line, which gets the newline that it lacks."""
        rest = b"".join(self._begun)
        return self._mark + rest + b"\n" if rest else b""


class Pumped:
    """One stream of the pump, up to where the command's has ended."""

    def __init__(self, fd: int, end: bytes) -> None:
        self.over = False
        self._labelled = Labelled(fd)
        self._end = end
        self._held = b""  # perhaps the start of the end

    def feed(self, data: bytes) -> bytes:
        """What is complete now."""
        data, self._held = self._held + data, b""
        at = data.rfind(self._end[:1])
        if at >= 0 and self._end.startswith(data[at:]):
            data, self._held = data[:at], data[at:]
            self.over = self._held == self._end
        return self._labelled.feed(data)

    def end(self) -> bytes:
        """The last line, which gets the newline that it lacks."""
        rest = b"" if self.over else self._held
        return self._labelled.feed(rest) + self._labelled.end()


class SessionCommand:
    """One command of a session.

    Attributes:
        exit_code: Published when both of its streams have ended.
        ended: Whether the shell has gone on; its streams may still be open.
        over: Whether nothing more will come.
    """

    def __init__(self, text: str, *, echo: bool) -> None:
        self.id = str(uuid.uuid4())
        self.text = text
        self.exit_code: int | None = None
        self.over = False
        self._echo = echo
        self.ended = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - a flood is not for memory
        self._size = 0
        self._news = asyncio.Event()
        self._end = f"\x1e{self.id}"
        self._pump: Program | None = None
        self._reading: asyncio.Task[None] | None = None

    def dto(self) -> dict[str, object]:
        """As the daemon shows it."""
        found: dict[str, object] = {"id": self.id, "command": self.text}
        return found if self.exit_code is None else found | {"exitCode": self.exit_code}

    def said(self, fd: int) -> str:
        """Its stdout or stderr, so far."""
        mark = MARKS[fd]
        lines = self.piece(0, self._size).split(b"\n")
        ours = [line.removeprefix(mark) + b"\n" for line in lines if line.startswith(mark)]
        return b"".join(ours).decode(errors="replace")

    def piece(self, at: int, size: int) -> bytes:
        """What of its log stands there, if anything does so far."""
        return b"" if self._log.closed else os.pread(self._log.fileno(), size, at)

    def changed(self) -> Coroutine[Any, Any, Literal[True]]:
        """Wait for more of its log, or its end, than there was at this call."""
        return self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def prepare(self, machine: Machine, directory: str, user: str) -> int:
        """Make its files and connect its streams; the pid of the program that does."""
        script = self.text.encode()
        argv = ["/bin/sh", "-c", _PUMP, "pump", directory, str(len(script)), self._end]
        pump = await machine.start(argv, user=user)
        self._pump = pump
        await pump.send(script)
        heard = b""
        while b"\n" not in heard:
            output = await pump.receive()
            if output is None or output.fd != 1:
                said = output.data.decode(errors="replace") if output is not None else "it ended"
                await pump.aclose()
                raise Refused(500, f"failed to create log files: {said}", source=DAEMON)
            heard += output.data
        first = heard.partition(b"\n")[2]
        self._reading = asyncio.ensure_future(self._read(pump, first))
        return pump.pid

    async def _read(self, pump: Program, first: bytes) -> None:
        streams = {fd: Pumped(fd, f"{self._end}\n".encode()) for fd in MARKS}
        self._append(streams[1].feed(first))
        with contextlib.suppress(SandboxError, MachineGone):
            while not all(stream.over for stream in streams.values()):
                output = await pump.receive()
                if output is None:
                    break
                self._append(streams[output.fd].feed(output.data))
        for stream in streams.values():
            self._append(stream.end())

    def _append(self, data: bytes) -> None:
        if data and not self._log.closed:
            self._log.write(data)
            self._log.flush()
            self._size += len(data)
            self._tell()

    async def write(self, text: str) -> None:
        """A line of input; there is no way to end it."""
        if self.ended or self._pump is None:
            raise Refused(
                410,
                f"command has already completed with exit code {self.exit_code}",
                "COMMAND_ALREADY_COMPLETED",
                DAEMON,
            )
        data = (text if text.endswith("\n") else text + "\n").encode()
        with contextlib.suppress(SandboxError):
            await self._pump.send(data)
        if self._echo:
            self._append(b"".join(MARKS[1] + line for line in data.splitlines(keepends=True)))

    async def end_input(self) -> None:
        """What a command that is waited for has from the start."""
        if self._pump is not None:
            with contextlib.suppress(SandboxError):
                await self._pump.send_eof()

    async def settle(self, code: int | None) -> None:
        """The shell has gone on, or is gone: wait for the streams, then publish the code."""
        self.ended = True
        await self.end_input()
        if self._reading is not None:
            await self._reading
        await self._finish(code)

    async def _finish(self, code: int | None) -> None:
        self.exit_code = code
        self.over = True
        self._tell()
        if self._pump is not None:
            await self._pump.aclose()

    async def aclose(self) -> None:
        """Let go of it, however far it is."""
        self.ended = True
        await cancel_and_wait(self._reading)
        if not self.over:
            await self._finish(None)
        self._log.close()


class Session:
    """One shell.

    Args:
        ident: The name that the caller gave.
        machine: Where it runs.
        home: Where it starts, and keeps its files.
    """

    def __init__(self, ident: str, machine: Machine, user: str, home: str) -> None:
        self.id = ident
        self.commands: dict[str, SessionCommand] = {}
        self._machine = machine
        self._user = user
        self._home = home
        self._directory = f"{home}/.daytona/sessions/{uuid.uuid4().hex}"
        self._shell: Program | None = None
        self._pids: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    def dto(self) -> dict[str, object]:
        """As the daemon shows it."""
        commands = [command.dto() for command in self.commands.values()]
        return {"sessionId": self.id, "commands": commands}

    async def open(self, env: Mapping[str, str]) -> None:
        """Start the shell."""
        shell = await self._machine.start(_SHELL, env=env, cwd=self._home, user=self._user)
        if self._ended:  # meanwhile, and nobody will close this one
            await shell.aclose()
            raise Refused(410, "session has ended", "SESSION_ENDED", DAEMON)
        self._shell = shell
        self._pids.append(shell.pid)
        self._keep(self._watch(shell))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, shell: Program) -> None:
        heard = b""
        with contextlib.suppress(SandboxError, MachineGone):
            while (output := await shell.receive()) is not None:
                if output.fd != 1:
                    continue
                *lines, heard = (heard + output.data).split(b"\n")
                for line in lines:
                    ident, _, code = line.decode().partition(" ")
                    self._keep(self.commands[ident].settle(int(code)))
        self._ended = True
        for command in self.commands.values():
            if not command.ended:
                self._keep(command.settle(None))

    async def run(self, text: str, *, echo: bool, wait: bool) -> SessionCommand:
        """Give the shell a command, which runs when those before it have ended."""
        if self._ended or self._shell is None:
            raise Refused(410, "session has ended", "SESSION_ENDED", DAEMON)
        command = SessionCommand(text, echo=echo)
        place = f"{self._directory}/{command.id}"
        try:
            self._pids.append(await command.prepare(self._machine, place, self._user))
            if self._ended:  # meanwhile, and nobody will close this one
                raise Refused(410, "session has ended", "SESSION_ENDED", DAEMON)
        except BaseException:
            await run_to_end(command.aclose(), deadline_s=_CLOSE_S)
            raise
        self.commands[command.id] = command
        line = f"{{ . {place}/cmd.sh; }} < {place}/in > {place}/out 2> {place}/err; "
        await self._shell.send(f'{line} echo "{command.id} $?"\n'.encode())
        if wait:
            await command.end_input()
            while not command.over:
                await command.changed()
        return command

    async def end(self) -> None:
        """End its processes: asked first, killed 5 s later."""
        argv = ["python3", "-I", "-S", "-c", _END, *map(str, self._pids)]
        try:
            with contextlib.suppress(SandboxError, MachineGone, StartFailed):  # all has ended then
                await self._machine.run(argv, user=self._user)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Let go of it, to the end."""
        self._ended = True
        await run_to_end(self._let_go(), deadline_s=_CLOSE_S)

    async def _let_go(self) -> None:
        await cancel_and_wait(*self._tasks)
        for command in self.commands.values():
            await command.aclose()
        if self._shell is not None:
            await self._shell.aclose()
