"""From nothing to the first command, and back to nothing."""

from __future__ import annotations

import time

import sandboxkit as sk
from benchmarks.measure import Row, Samples
from benchmarks.reference import HARDENING, docker_cli


async def measure(rounds: int) -> list[Row]:
    """Create to first exec, and close, beside `docker run`, `docker exec` and `docker rm`."""
    create: list[float] = []
    close: list[float] = []
    run: list[float] = []
    remove: list[float] = []
    image = ""
    for turn in range(rounds + 1):
        began = time.perf_counter()
        sandbox = await sk.Sandbox.create("docker")
        await sandbox.exec(["true"])
        ready = time.perf_counter()
        await sandbox.aclose()
        ended = time.perf_counter()
        image = str(sandbox.info.effective.image)
        box = await _docker_run(image)
        running = time.perf_counter()
        await docker_cli("rm", "-f", box)
        if turn:  # the first one warms up
            create.append(ready - began)
            close.append(ended - ready)
            run.append(running - ended)
            remove.append(time.perf_counter() - running)
    return [
        _row("create to first exec, cold", create, "docker run + docker exec", run),
        _row("close", close, "docker rm -f", remove),
    ]


async def _docker_run(image: str) -> str:
    """The same image with the same hardening, by the docker command."""
    started = await docker_cli("run", "-d", *HARDENING, image, "sleep", "600")
    box = started.decode().strip()
    await docker_cli("exec", box, "true")
    return box


def _row(what: str, ours: list[float], beside: str, theirs: list[float]) -> Row:
    mine, reference = Samples(tuple(ours)), Samples(tuple(theirs))
    return Row(
        what,
        mine.median * 1e3,
        "ms",
        beside,
        reference.median * 1e3,
        "at most 1.2x",
        mine.median <= 1.2 * reference.median,
        mine.p95 * 1e3,
    )
