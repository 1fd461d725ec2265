"""A hundred megabytes through the gateway, beside the same way without it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import sandboxkit as sk
from benchmarks.measure import Row, interleaved

SIZE = 100_000_000
ADDRESS = "93.184.215.14"  # public, so that the gateway goes there; it is led to loopback
HOST = "files.example.com"
CURL = ("curl", "-sS", "-f", "-o", "/dev/null")


async def measure(rounds: int) -> list[Row]:
    """Rates in MB/s, from a server on this machine into a sandbox."""
    with tempfile.TemporaryDirectory() as directory:
        await asyncio.to_thread(Path(directory, "big").write_bytes, os.urandom(SIZE))
        async with _server(directory) as port:
            return await _measure(port, rounds)


async def _measure(port: int, rounds: int) -> list[Row]:
    async def resolve(_host: str, _port: int) -> list[str]:
        return [ADDRESS]

    async def dial(_address: str, _port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port, limit=65536)

    async with (
        sk.Sandbox.create(
            "docker",
            network=sk.NetworkPolicy.allow([HOST, f"{HOST}:8080"]),
            gateway=sk.Gateway(resolve=resolve, dial=dial),
        ) as sandbox,
        sandbox.ports.reverse(0, "127.0.0.1", port) as bare,
    ):

        async def fetch(*arguments: str) -> None:
            (await sandbox.exec([*CURL, *arguments])).check()

        taken = await interleaved(
            {
                "a bare tunnel": lambda: fetch(f"{bare.url()}/big"),
                "by CONNECT": lambda: fetch("-p", f"http://{HOST}:8080/big"),
                "by plain HTTP": lambda: fetch(f"http://{HOST}/big"),
            },
            rounds=rounds,
            warm_up=1,
        )
    rates = {name: SIZE / 1e6 / samples.median for name, samples in taken.items()}
    beside = "a bare tunnel"
    return [
        Row(
            f"100 MB {what}",
            rates[what],
            "MB/s",
            beside,
            rates[beside],
            "half as fast",
            rates[what] >= rates[beside] / 2,
        )
        for what in ("by CONNECT", "by plain HTTP")
    ]


@contextlib.asynccontextmanager
async def _server(directory: str) -> AsyncGenerator[int]:
    """A file server in a process of its own."""
    script = (
        "import functools, http.server as h; "
        f"s = h.ThreadingHTTPServer(('127.0.0.1', 0), "
        f"functools.partial(h.SimpleHTTPRequestHandler, directory={directory!r})); "
        "print(s.server_address[1], flush=True); s.serve_forever()"
    )
    process = await asyncio.create_subprocess_exec(
        "python3",
        "-c",
        script,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()
