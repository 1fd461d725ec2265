"""A Docker engine beside the machine's, which a test may restart or configure."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
from anyio import to_thread

import sandboxkit as sk
from sandboxkit.providers.docker.daemon import Daemon
from sandboxkit.providers.docker.engine_paths import EnginePaths

START_S = 60.0


@asynccontextmanager
async def private_engine(host: str, *arguments: str) -> AsyncGenerator[Daemon]:
    """An engine with further arguments of dockerd, and the default image of `host`."""
    with tempfile.TemporaryDirectory(prefix="sk-") as directory:
        paths = EnginePaths.private(Path(directory))
        paths = replace(paths, arguments=(*paths.arguments, *arguments))
        daemon = Daemon(paths)
        await daemon.start(deadline_s=START_S)
        try:
            async with sk.Sandbox.create("docker") as sandbox:
                image = str(sandbox.info.effective.image)
            await to_thread.run_sync(_copy_image, host, paths.host, image)
            yield daemon
        finally:
            await daemon.stop()
            await to_thread.run_sync(_unmount, paths)


def _copy_image(source: str, target: str, image: str) -> None:
    old: Any = docker.APIClient(base_url=source)
    new: Any = docker.APIClient(base_url=target)
    try:
        for _ in new.load_image(old.get_image(image)):
            pass
    finally:
        old.close()
        new.close()


def _unmount(paths: EnginePaths) -> None:
    # dockerd mounts its data on itself, and leaves that mount when it is killed.
    subprocess.run(["umount", paths.state / "data"], check=False, stderr=subprocess.DEVNULL)
