"""A hundred megabytes: up, down, and as a command's output."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import sandboxkit as sk
from benchmarks.measure import Row, interleaved
from benchmarks.reference import docker_cli

SIZE = 100_000_000
FLOOD = ["head", "-c", str(SIZE), "/dev/zero"]


async def measure(rounds: int) -> list[Row]:
    """Rates in MB/s, beside the docker command's."""
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory, "up"), Path(directory, "down")
        await asyncio.to_thread(source.write_bytes, os.urandom(SIZE))
        async with sk.Sandbox.create("docker", memory_gib=2) as sandbox:
            box = sandbox.id
            taken = await interleaved(
                {
                    "up": lambda: sandbox.files.upload(source, "big"),
                    "docker cp up": lambda: docker_cli("cp", str(source), f"{box}:/work/cp"),
                    "down": lambda: sandbox.files.download("big", target),
                    "docker cp down": lambda: docker_cli("cp", f"{box}:/work/cp", str(target)),
                    "stdout": lambda: _flood(sandbox),
                    "docker exec": lambda: _flood_by_docker(box),
                },
                rounds=rounds,
                warm_up=1,
            )
    rates = {name: SIZE / 1e6 / samples.median for name, samples in taken.items()}
    return [
        Row(
            f"100 MB {what}",
            rates[ours],
            "MB/s",
            beside,
            rates[theirs],
            "at least as fast",
            rates[ours] >= rates[theirs],
        )
        for what, ours, beside, theirs in (
            ("up", "up", "docker cp", "docker cp up"),
            ("down", "down", "docker cp", "docker cp down"),
            ("of stdout", "stdout", "docker exec", "docker exec"),
        )
    ]


async def _flood(sandbox: sk.Sandbox) -> None:
    async with await sandbox.spawn(FLOOD) as process:
        received = 0
        async for chunk in process.stdout:
            received += len(chunk)
    if received != SIZE:
        raise RuntimeError(f"{received} bytes came, not {SIZE}")


async def _flood_by_docker(box: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "docker", "exec", box, *FLOOD, stdout=asyncio.subprocess.PIPE, limit=2**20
    )
    assert process.stdout is not None
    while await process.stdout.read(2**18):
        pass
    await process.wait()
