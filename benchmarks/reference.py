"""What sandboxkit is measured beside: a local subprocess, the docker CLI, docker-py."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import docker

HARDENING = (
    *("--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--init"),
    *("--memory", "1g", "--memory-swap", "1g", "--cpus", "1", "--pids-limit", "512"),
    *("--user", "1000"),
)


async def local(*argv: str) -> None:
    """Run a program on this machine, as a thread would: `asyncio`'s own way costs more."""
    await asyncio.to_thread(subprocess.run, argv, check=True, stdout=subprocess.DEVNULL)


async def docker_cli(*argv: str) -> bytes:
    """Run the docker command; its output."""
    process = await asyncio.create_subprocess_exec(
        "docker", *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, complaint = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"docker {argv[0]} failed: {complaint.decode(errors='replace')}")
    return out


class DockerPy:
    """Commands in a container by docker-py, as most peers run them."""

    def __init__(self, container: str) -> None:
        self._client: Any = docker.from_env()
        self._container: Any = self._client.containers.get(container)

    async def exec(self, *argv: str) -> None:
        """Run a command in the container."""
        await asyncio.to_thread(self._container.exec_run, list(argv))

    def close(self) -> None:
        """Let go of the engine."""
        self._client.close()
