"""Where a Docker engine that sandboxkit starts keeps its things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandboxkit.state_directory import state_directory

SYSTEM_SOCKET = Path("/var/run/docker.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePaths:
    """Where an engine keeps its things.

    Attributes:
        socket: The API's unix socket.
        pid_file: Written by dockerd, and left behind when it is killed.
        exec_root: Run-time state; containerd's own pid file is below it.
        state: Our directory for its log and for the record of what we started.
        launcher: What starts dockerd, by `exec`, with its own arguments.
        arguments: Further arguments of dockerd.
    """

    socket: Path = SYSTEM_SOCKET
    pid_file: Path = Path("/var/run/docker.pid")
    exec_root: Path = Path("/var/run/docker")
    state: Path
    launcher: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    @classmethod
    def system(cls) -> EnginePaths:
        """The machine's engine, with our files in the user's state directory."""
        return cls(state=state_directory())

    @classmethod
    def private(cls, directory: Path) -> EnginePaths:
        """An engine beside the machine's, with its own images and its own network.

        It lives in a network namespace, without a way out: two engines in one would take
        each other's bridge and firewall rules away.

        Args:
            directory: Its own directory; a short path, because sockets live below it.
        """
        return cls(
            socket=directory / "docker.sock",
            pid_file=directory / "docker.pid",
            exec_root=directory / "run",
            state=directory,
            launcher=("unshare", "--net", "--"),
            arguments=(
                *("--data-root", str(directory / "data"), "--exec-root", str(directory / "run")),
                *("--pidfile", str(directory / "docker.pid")),
            ),
        )

    @property
    def host(self) -> str:
        """The engine's address, as in `DOCKER_HOST`."""
        return f"unix://{self.socket}"

    @property
    def containerd_pid_file(self) -> Path:
        """Where dockerd keeps the pid of the containerd that it starts."""
        return self.exec_root / "containerd" / "containerd.pid"

    @property
    def log(self) -> Path:
        """The file that dockerd's output goes to."""
        return self.state / "dockerd.log"

    @property
    def record(self) -> Path:
        """The file that says which process we started."""
        return self.state / "dockerd.json"
