"""What the emulated daemon has open towards the engine is closed, whenever a sandbox goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.cancelling import Work, cancel_at_every_await, nothing_lost
from tests.emulators.daytona.refusals import Refused
from tests.emulators.daytona.session import Session
from tests.emulators.machines import Machine, Machines


@pytest.fixture
async def machine(engine: str) -> AsyncIterator[Machine]:
    machines = Machines(engine)
    try:
        yield await machines.create()
    finally:
        await machines.aclose()


async def warm(machine: Machine) -> None:
    """From here on the connections that are kept for the next call are there."""
    calls = (machine.run(["true"]) for _ in range(3))
    await asyncio.gather(*calls)


async def test_a_session_that_is_closed_while_it_is_opened(machine: Machine) -> None:
    await warm(machine)
    async with nothing_lost():
        session = Session("one", machine, "0", "/")
        opening = asyncio.ensure_future(session.open({}))
        await asyncio.sleep(0)
        await session.aclose()
        with pytest.raises(Refused, match="ended"):
            await opening


async def test_whenever_the_close_of_a_session_is_cancelled(machine: Machine) -> None:
    async def begin() -> Work:
        session = Session("one", machine, "0", "/")
        await session.open({})
        for _ in range(2):
            await session.run("sleep 600", echo=False, wait=False)
        return session.aclose()

    await warm(machine)
    async with nothing_lost():
        assert await cancel_at_every_await(begin) > 1


async def test_whenever_a_command_of_a_session_is_cancelled(machine: Machine) -> None:
    async def used(session: Session) -> None:
        try:
            await session.open({})
            await session.run("true", echo=False, wait=True)
        finally:
            await session.aclose()

    async def begin() -> Work:
        return used(Session("one", machine, "0", "/"))

    await warm(machine)
    async with nothing_lost():
        assert await cancel_at_every_await(begin) > 8
