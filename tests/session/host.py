"""Hosts of named sessions: processes that are told what to do, line by line."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# `die` is for the scripts of those that are killed in the middle.
PROGRAM = """
import asyncio, os, signal, sys
import sandboxkit as sk
from tests.session.quiet import Quiet

def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)

async def main():
    loop, known = asyncio.get_running_loop(), set()
    line = lambda: loop.run_in_executor(None, sys.stdin.readline)
    print("ready", flush=True)
    while name := (await line()).strip():
        session = sk.Session(sys.argv[1], agent=Quiet(known), name=name, keep_s=float(sys.argv[2]))
        async with session:
            print(session.sandbox.id, session.id, flush=True)
            if (await line()).strip() == "destroy":
                await session.destroy()
        print("left", flush=True)

{before}
asyncio.run(main())
"""


@dataclass
class Host:
    """One process."""

    process: asyncio.subprocess.Process

    @classmethod
    async def start(
        cls, provider: str, *, keep_s: float = 600.0, state: Path | None = None, before: str = ""
    ) -> Host:
        """Start one.

        Args:
            provider: The backend.
            keep_s: As for `Session`.
            state: A state directory of its own, as on another machine.
            before: What its program does first.
        """
        env = dict(os.environ)
        if state is not None:
            env["SANDBOXKIT_JOURNAL"] = str(state / "journal.db")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM.format(before=before), provider, str(keep_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=env,
        )
        host = cls(process)
        assert await host.said() == "ready"
        return host

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def said(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def ask(self, line: str) -> str:
        self.tell(line)
        return await self.said()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.sleep(0)  # its pipes are closed

    async def end(self) -> int:
        """Let it leave by itself."""
        self.tell("")
        return await self.process.wait()
