"""What the tests of the emulator do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import daytona
from daytona import AsyncDaytona, AsyncSandbox, SessionExecuteRequest

Create = Callable[..., Awaitable[AsyncSandbox]]
SHARED = "shared"
ENOUGH_S = 30.0


class Log:
    """What a log stream has said so far."""

    def __init__(self, box: AsyncSandbox, session: str, command: str) -> None:
        self.out, self.err = "", ""
        self.reading = asyncio.ensure_future(
            box.process.get_session_command_logs_async(session, command, self._out, self._err)
        )

    def _out(self, text: str) -> None:
        self.out += text

    def _err(self, text: str) -> None:
        self.err += text

    async def until(self, text: str) -> None:
        async with asyncio.timeout(ENOUGH_S):
            while text not in self.out + self.err:
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        async with asyncio.timeout(ENOUGH_S):
            await self.reading

    async def aclose(self) -> None:
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)


async def run(
    box: AsyncSandbox, session: str, command: str, *, wait: bool = False, quiet: bool = True
) -> Any:
    """Give a session a command."""
    request = SessionExecuteRequest(command=command, run_async=not wait, suppress_input_echo=quiet)
    return await box.process.execute_session_command(session, request)


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(ENOUGH_S):
        while not await check():
            await asyncio.sleep(0.05)


async def is_gone(client: AsyncDaytona, name: str) -> bool:
    try:
        await client.get(name)
    except daytona.DaytonaNotFoundError:
        return True
    return False
