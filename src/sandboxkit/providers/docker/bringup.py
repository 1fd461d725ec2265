"""Where no Docker engine runs, bring one up.

`sandboxkit demo --setup`, `sandboxkit doctor --setup` and the tests call `bring_up`.
As a script, `python -m sandboxkit.providers.docker.bringup` does the same, and with
`--stop` stops what it started. Debian and Ubuntu as root; elsewhere the error says
what to install. An engine that the user has chosen (`DOCKER_HOST`, a context) is used
or complained about, never replaced.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread

from sandboxkit.errors import ProviderUnavailableError, SandboxError
from sandboxkit.progress import Progress, report
from sandboxkit.providers.docker import debian
from sandboxkit.providers.docker.daemon import (
    PING_S,
    Daemon,
    answers,
    find_program,
    ping,
    running_daemon,
)
from sandboxkit.providers.docker.endpoint import Endpoint, resolve
from sandboxkit.providers.docker.engine import Engine
from sandboxkit.providers.docker.engine_paths import SYSTEM_SOCKET, EnginePaths

Tell = Callable[[str], None]

START_S = 90.0
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_SYSTEMD = Path("/run/systemd/system")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """A Docker engine that answers.

    Attributes:
        host: Its address, as in `DOCKER_HOST`.
        daemon: The dockerd that this call started; None where one ran already, or
            where systemd keeps it.
    """

    host: str
    daemon: Daemon | None = None

    async def stop(self) -> None:
        """Stop the engine if, and only if, this object started it."""
        if self.daemon is not None:
            await self.daemon.stop()


def tell_listener(text: str) -> None:
    """Report a step to whoever listens for progress (`sandboxkit.progress`)."""
    report(Progress(text))


async def find_engine(paths: EnginePaths | None = None) -> str | None:
    """The address of the Docker engine that answers; None where there is none.

    Args:
        paths: As for `bring_up`.

    Raises:
        ProviderUnavailableError: The engine that the environment names does not answer,
            or this user may not use the machine's own.
        InvalidSpecError: The environment names an engine in a way that cannot be used.
    """
    if paths is None:
        paths = EnginePaths.system()
        endpoint = await to_thread.run_sync(resolve)
        if endpoint.host != paths.host:
            await _check_chosen(endpoint)
            return endpoint.host
    return paths.host if await _answers_or_refused(paths) else None


async def bring_up(
    *, progress: Tell = tell_listener, paths: EnginePaths | None = None, deadline_s: float = START_S
) -> RunningEngine:
    """Find the Docker engine, or install and start one.

    Cancellation stops a dockerd that is being started, and ends an `apt-get` under way.

    Args:
        progress: Called with each step, in words.
        paths: Which engine, and where it keeps its things. By default the one that the
            environment names, else the machine's own.
        deadline_s: Seconds that dockerd may take until it answers, installation apart.

    Raises:
        ProviderUnavailableError: None answers and none can be started here. The message
            says why, and what to install or start.
        InvalidSpecError: The environment names an engine in a way that cannot be used.
    """
    host = await find_engine(paths)
    if host is not None:
        progress(f"A Docker engine answers at {host}.")
        return RunningEngine(host)
    paths = paths or EnginePaths.system()
    if not await to_thread.run_sync(debian.can_install):
        raise _unavailable(_what_to_do(paths))
    progress(f"No Docker engine answers at {paths.host}: bringing one up.")
    await debian.install(await to_thread.run_sync(_missing_packages), progress)
    return await _start(paths, progress, deadline_s)


async def stop_started(*, progress: Tell = tell_listener, paths: EnginePaths | None = None) -> None:
    """Stop the dockerd that an earlier `bring_up`, in whatever process, has started."""
    daemon = await to_thread.run_sync(Daemon.recorded, paths or EnginePaths.system())
    if daemon is None:
        progress("No Docker engine that sandboxkit started is running.")
        return
    await daemon.stop()
    progress(f"Stopped dockerd (process {daemon.pid}).")


async def _start(paths: EnginePaths, progress: Tell, deadline_s: float) -> RunningEngine:
    if paths.socket == SYSTEM_SOCKET and await to_thread.run_sync(_SYSTEMD.is_dir):
        progress("Starting Docker (systemctl start docker).")
        await _run("systemctl", "start", "docker.service")
        waiting_for = "docker.service, which systemd started,"
    elif pid := await to_thread.run_sync(running_daemon, paths):
        waiting_for = f"dockerd runs as process {pid} but"
        progress(f"dockerd runs already, as process {pid}: waiting for it to answer.")
    else:
        await _mount_cgroups(progress)
        progress(f"Starting dockerd; its log is {paths.log}.")
        daemon = Daemon(paths)
        await daemon.start(deadline_s=deadline_s)
        progress(f"The Docker engine answers at {paths.host} (dockerd is process {daemon.pid}).")
        return RunningEngine(paths.host, daemon)
    with anyio.move_on_after(deadline_s):
        while not await answers(paths.socket):  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(0.1)
        progress(f"The Docker engine answers at {paths.host}.")
        return RunningEngine(paths.host)
    raise _unavailable(
        f"{waiting_for} does not answer at {paths.host} within {deadline_s:.0f} s. "
        "Look at its log, or end it, then try again."
    )


async def _answers_or_refused(paths: EnginePaths) -> bool:
    try:
        await ping(paths.socket)
    except PermissionError as error:
        raise _unavailable(
            f"A Docker engine has its socket at {paths.socket}, but this user may not use it. "
            "Add the user to the group `docker` and log in again, or run this as root."
        ) from error
    except OSError:
        return False
    return True


async def _check_chosen(endpoint: Endpoint) -> None:
    """Check an engine that the user has chosen, by DOCKER_HOST or a context."""
    if endpoint.parts.scheme != "unix":
        engine = Engine()
        await engine.call("bring_up", lambda api: api.ping(), deadline_s=2 * PING_S)
        await engine.aclose()
        return
    try:
        await ping(Path(endpoint.parts.path))
    except OSError as error:
        raise _unavailable(
            f"No Docker engine answers at {endpoint.host}, named by {endpoint.source}: {error}. "
            "Start that engine, or unset the choice to use this machine's own."
        ) from error


def _missing_packages() -> list[str]:
    """What the engine, and an image built from Debian packages, still need here."""
    needed = {"dockerd": "docker.io", "iptables": "iptables", "mmdebstrap": "mmdebstrap"}
    missing = [package for program, package in needed.items() if not find_program(program)]
    return missing if _CERTIFICATES.exists() else [*missing, "ca-certificates"]


async def _mount_cgroups(progress: Tell) -> None:
    """Mount the kernel's cgroups where no init system has done so."""
    if (_CGROUPS / "cgroup.controllers").exists() or (_CGROUPS / "memory").is_dir():
        return
    progress(f"Mounting the kernel's cgroups at {_CGROUPS}.")
    await _run("mount", "-t", "cgroup2", "cgroup2", str(_CGROUPS))


async def _run(*argv: str) -> None:
    command = " ".join(argv)
    try:
        with anyio.fail_after(START_S):
            done = await anyio.run_process(
                argv, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False
            )
    except (OSError, TimeoutError) as error:
        raise _unavailable(f"`{command}` could not be run: {error}") from error
    if done.returncode:
        output = done.stdout.decode(errors="replace").strip()[-1000:]
        raise _unavailable(f"`{command}` failed with exit code {done.returncode}: {output}")


def _what_to_do(paths: EnginePaths) -> str:
    start = f"No Docker engine answers at {paths.host}, and none can be started here."
    if sys.platform != "linux":
        return f"{start} Install Docker Desktop, OrbStack or Colima, and start it."
    if find_program("dockerd"):
        return f"{start} Docker is installed: start it with `sudo systemctl start docker`."
    if find_program("apt-get"):
        return (
            f"{start} Install and start it with `sudo apt-get install docker.io "
            "ca-certificates iptables mmdebstrap`, or run this as root."
        )
    return f"{start} Install Docker Engine with the system's package manager, and start it."


def _unavailable(message: str) -> ProviderUnavailableError:
    return ProviderUnavailableError(message, op="bring_up", provider="docker", retryable=False)


def main() -> int:
    """The script: bring an engine up, or with `--stop` stop the one brought up."""
    parser = argparse.ArgumentParser(
        prog="python -m sandboxkit.providers.docker.bringup",
        description="Where no Docker engine runs, bring one up.",
    )
    parser.add_argument("--stop", action="store_true", help="stop the dockerd started earlier")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    async def work() -> None:
        if arguments.stop:
            await stop_started(progress=say)
        else:
            await bring_up(progress=say)

    try:
        anyio.run(work)
    except SandboxError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
