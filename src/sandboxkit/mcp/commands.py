"""The tools that run commands: to their end, or in the background."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from sandboxkit.mcp.machine import Life, Machine
from sandboxkit.mcp.tool import Arguments, Result, Tool, clipped, joined, sections

Command = Annotated[
    str | list[str],
    Field(
        description="A line for /bin/sh, or the program and its arguments as a list of strings "
        "that no shell reads.",
    ),
]
Cwd = Annotated[
    str | None,
    Field(description="Where it starts; relative to the work directory, which is the default."),
]

_MOST_S: Final = 24 * 3600.0


class ExecArguments(Arguments):
    """What `exec` takes."""

    command: Command
    cwd: Cwd = None
    timeout_s: float = Field(
        default=120.0, gt=0, le=_MOST_S, description="Seconds after which it is ended."
    )
    stdin: str | None = Field(default=None, description="Its input; none by default.")


class ExecOutcome(Result):
    """What a command did."""

    exit_code: int = Field(description="A signal is its negative number.")
    stdout: str
    stderr: str
    timed_out: bool = Field(description="Whether it was ended by its time-out.")
    out_of_memory: bool = Field(description="Whether the kernel killed a process for memory.")
    truncated: bool = Field(description="Whether output is missing.")
    duration_s: float

    def text(self) -> str:
        """The facts, then the output."""
        facts = joined(
            (
                ended(self.exit_code) + f" after {self.duration_s:.1f} s",
                "It was ended by its time-out." if self.timed_out else "",
                "A process was killed for want of memory." if self.out_of_memory else "",
                "Output is missing: it was too long, or something in the background still "
                "writes. Send it to a file, and read that in parts."
                if self.truncated
                else "",
            )
        )
        return joined((facts, sections(("stdout", self.stdout), ("stderr", self.stderr))))


async def execute(machine: Machine, arguments: ExecArguments) -> ExecOutcome:
    """Run a command to its end; cancelling ends it."""
    sandbox = await (await machine.life()).ready()
    done = await sandbox.exec(
        argv_of(arguments.command),
        cwd=arguments.cwd,
        timeout_s=arguments.timeout_s,
        stdin=None if arguments.stdin is None else arguments.stdin.encode(),
    )
    stdout, cut_stdout = clipped(done.stdout)
    stderr, cut_stderr = clipped(done.stderr)
    return ExecOutcome(
        exit_code=done.exit_code,
        stdout=stdout,
        stderr=stderr,
        timed_out=done.timed_out,
        out_of_memory=done.oom_killed,
        truncated=done.truncated or cut_stdout or cut_stderr,
        duration_s=round(done.duration_s, 3),
    )


class StartArguments(Arguments):
    """What `start_process` takes."""

    command: Command
    cwd: Cwd = None


class Named(Arguments):
    """A process, by its name."""

    process: str = Field(description="The name that start_process gave.")


class ReadArguments(Named):
    """What `read_process` takes."""

    wait_s: float = Field(
        default=0.0,
        ge=0,
        le=300,
        description="Seconds to wait at most, if there is no new output and it still runs.",
    )


class ProcessState(Result):
    """A process in the background, and what it wrote since it was last looked at."""

    process: str
    running: bool
    exit_code: int | None = Field(description="A signal is its negative number.")
    stdout: str
    stderr: str
    truncated: bool = Field(description="Whether output is missing.")

    def text(self) -> str:
        """Its state, then its new output."""
        state = "still runs" if self.running else ended(self.exit_code)
        missing = "Output is missing: it was too long." if self.truncated else ""
        output = sections(("new stdout", self.stdout), ("new stderr", self.stderr))
        return joined((f"{self.process}: {state}", missing, output or "No new output."))


async def start(machine: Machine, arguments: StartArguments) -> ProcessState:
    """Start a process that goes on."""
    life = await machine.life()
    sandbox = await life.ready()
    process = await sandbox.spawn(argv_of(arguments.command), cwd=arguments.cwd)
    return _state(life, life.keep(process, shown(arguments.command)))


async def read(machine: Machine, arguments: ReadArguments) -> ProcessState:
    """What a process wrote since it was last looked at."""
    life = await machine.life()
    await life.process(arguments.process).wait(arguments.wait_s)
    return _state(life, arguments.process)


async def stop(machine: Machine, arguments: Named) -> ProcessState:
    """End a process, with all that it started."""
    life = await machine.life()
    await life.process(arguments.process).stop(grace_s=2.0)
    return _state(life, arguments.process)


def _state(life: Life, name: str) -> ProcessState:
    process = life.process(name)
    stdout, cut_stdout = clipped(*process.stdout.take())
    stderr, cut_stderr = clipped(*process.stderr.take())
    return ProcessState(
        process=name,
        running=not process.over,
        exit_code=process.process.exit_code if process.over else None,
        stdout=stdout,
        stderr=stderr,
        truncated=cut_stdout or cut_stderr,
    )


def argv_of(command: str | Sequence[str]) -> list[str]:
    """The program and its arguments; a line goes to a shell."""
    return ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)


def shown(command: str | Sequence[str]) -> str:
    """A command as a person would type it."""
    return command if isinstance(command, str) else shlex.join(command)


def ended(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is None or exit_code >= 0:
        return f"exit code {'unknown' if exit_code is None else exit_code}"
    names = {each.value: each.name for each in signal.Signals}
    return f"ended by the signal {names.get(-exit_code, -exit_code)} (exit code {exit_code})"


TOOLS: Final = (
    Tool(
        "exec",
        "Run a command",
        "Run a command in the sandbox to its end, and get its exit code and output. Of long "
        "output you get the head and the tail. For what shall go on running, such as a server, "
        "use start_process.",
        ExecArguments,
        ExecOutcome,
        execute,
        destroys=True,
    ),
    Tool(
        "start_process",
        "Start a process",
        "Start a command in the sandbox that goes on running, such as a server. It ends with "
        "stop_process, or with the sandbox.",
        StartArguments,
        ProcessState,
        start,
        destroys=True,
    ),
    Tool(
        "read_process",
        "Read a process's output",
        "What a started process has written since it was last looked at, and whether it runs.",
        ReadArguments,
        ProcessState,
        read,
        reads=True,
    ),
    Tool(
        "stop_process",
        "Stop a process",
        "End a started process and all that it started: TERM, 2 seconds, KILL.",
        Named,
        ProcessState,
        stop,
        destroys=True,
        repeats=True,
    ),
)
