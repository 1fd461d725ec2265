"""The tools for the sandbox itself: what it is, its ports, and a fresh one."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from sandboxkit.mcp.machine import Machine
from sandboxkit.mcp.tool import Arguments, Result, Tool, joined


class Nothing(Arguments):
    """A tool that takes no arguments."""


class ProcessLine(Result):
    """A process in the background."""

    process: str
    command: str
    running: bool

    def text(self) -> str:
        """A line."""
        return f"{self.process} ({'running' if self.running else 'ended'}): {self.command[:200]}"


class Info(Result):
    """What is known of the sandbox."""

    state: Literal["not started", "starting", "running", "ended"]
    id: str | None = None
    provider: str | None = None
    workdir: str | None = None
    user: str | None = None
    network: str | None = None
    cpu: float | None = None
    memory_gib: float | None = None
    differences: list[str] = Field(
        default=[], description="What the backend could not do as it was wished."
    )
    processes: list[ProcessLine] = Field(default=[])
    forwarded: dict[str, str] = Field(
        default={}, description="Addresses on the user's machine, by port of the sandbox."
    )

    def text(self) -> str:
        """Lines."""
        if self.state == "not started":
            return "not started yet: the first tool that needs the sandbox starts it"
        limits = f"{self.cpu} CPUs, {self.memory_gib} GiB of memory, network: {self.network}"
        return joined(
            (
                f"{self.state}: {self.id} at {self.provider}" if self.id else self.state,
                f"work directory {self.workdir}, user {self.user}" if self.id else "",
                limits if self.id else "",
                *(f"differs: {each}" for each in self.differences),
                *(each.text() for each in self.processes),
                *(f"port {port}: {url}" for port, url in self.forwarded.items()),
            )
        )


async def info(machine: Machine, _: Nothing) -> Info:
    """What the sandbox is; does not start it."""
    if machine.ended:
        return Info(state="ended")
    life = machine.current
    if life is None:
        return Info(state="not started")
    sandbox = life.sandbox
    if sandbox is None:
        return Info(state="starting")
    known, real = sandbox.info, sandbox.info.effective
    return Info(
        state="running",
        id=sandbox.id,
        provider=known.provider,
        workdir=sandbox.workdir if known.guest else None,
        user=real.user,
        network=real.network,
        cpu=real.cpu,
        memory_gib=real.memory_gib,
        differences=[f"{each.field}: {each.reason}" for each in known.differences],
        processes=[
            ProcessLine(process=name, command=each.command, running=not each.over)
            for name, each in life.processes.items()
        ],
        forwarded={str(port): address.url() for port, address in life.ports.items()},
    )


async def restart(machine: Machine, _: Nothing) -> Info:
    """End the sandbox, and make a new one."""
    await machine.restart()
    return await info(machine, Nothing())


class ForwardArguments(Arguments):
    """What `forward_port` takes."""

    port: int = Field(ge=1, le=65535, description="The port in the sandbox.")


class Forwarded(Result):
    """A port of the sandbox on the user's machine."""

    port: int
    host: str
    local_port: int
    url: str

    def text(self) -> str:
        """Where it is."""
        return (
            f"Port {self.port} of the sandbox is at {self.url} on the user's machine, "
            "for as long as the sandbox lives."
        )


async def forward(machine: Machine, arguments: ForwardArguments) -> Forwarded:
    """Forward a port to this machine."""
    address = await (await machine.life()).forward(arguments.port)
    return Forwarded(
        port=arguments.port, host=address.host, local_port=address.port, url=address.url()
    )


TOOLS: Final = (
    Tool(
        "forward_port",
        "Forward a port",
        "Make a port of the sandbox (a server on its 127.0.0.1) reachable on the user's "
        "machine, and get its address there.",
        ForwardArguments,
        Forwarded,
        forward,
        repeats=True,
    ),
    Tool(
        "info",
        "About the sandbox",
        "What the sandbox is and whether it runs: limits, network, work directory, processes, "
        "forwarded ports.",
        Nothing,
        Info,
        info,
        reads=True,
    ),
)

RESTART: Final = Tool(
    "restart",
    "A fresh sandbox",
    "End the sandbox and start a fresh, empty one. All files, processes and forwarded ports "
    "of the old one are lost.",
    Nothing,
    Info,
    restart,
    destroys=True,
)
