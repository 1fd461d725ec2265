"""A connection that breaks at any moment: the conversation goes on, nothing lost or doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from sandboxkit.channel.requests import PIPE
from sandboxkit.errors import ConnectionLostError, SandboxError
from sandboxkit.testing.conformance.fixtures import Making
from sandboxkit.testing.conformance.inside import mark, program, read_until, until_gone
from sandboxkit.testing.conformance.promise import promise
from sandboxkit.testing.conformance.wires import Line

_CUTS = 20


@asynccontextmanager
async def _cutting(line: Line, cuts: int = 8) -> AsyncGenerator[None]:
    """Cut the connection again and again meanwhile, at random moments and in mid-frame."""
    dice = random.Random(20)  # noqa: S311 - the same moments in every run

    async def cut() -> None:
        for _ in range(cuts):
            before = line.spawned
            if dice.random() < 0.5:
                line.cut()
            else:
                line.cut_after(dice.randrange(1, 100_000))
            with anyio.move_on_after(2.0):  # a silent connection does not notice
                while line.spawned == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.sleep(dice.uniform(0.0, 0.05))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cut)
        yield
        tasks.cancel_scope.cancel()


@promise
async def test_output_crosses_broken_connections_exactly(create: Making) -> None:
    """Everything that a command writes arrives once and in order, and its exit code."""
    sandbox = await create()
    line = create.wired.line(sandbox.id)
    script = """
        import sys, time
        for number in range(40_000):
            print(number, "x" * 80)
            if number % 400 == 0:
                print("aside", number, file=sys.stderr)
                time.sleep(0.005)
        sys.exit(9)
    """
    async with _cutting(line, _CUTS):
        result = await sandbox.exec(program(script))
    assert line.spawned > 5, "the connection was not cut"
    assert result.exit_code == 9
    assert result.text.splitlines() == [f"{number} {'x' * 80}" for number in range(40_000)]
    assert len(result.stderr.splitlines()) == 100


@promise
async def test_a_conversation_goes_on_over_broken_connections(create: Making) -> None:
    """Twenty cuts in the middle of a dialogue: no message is lost or doubled."""
    sandbox = await create()
    line = create.wired.line(sandbox.id)
    async with await sandbox.spawn(["cat"], stdin=PIPE) as process:
        for number in range(_CUTS):
            line.cut() if number % 2 else line.cut_after(number * 97)
            message = b"message %d\n" % number * 500
            await process.stdin.write(message)
            seen = b""
            while len(seen) < len(message):
                seen += await process.stdout.receive()
            assert seen == message
        await process.stdin.close()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0
    assert line.spawned > _CUTS // 2


@promise
async def test_a_command_starts_at_most_once(create: Making) -> None:
    """A start that is repeated on a new connection finds the command that runs already."""
    sandbox = await create()
    async with _cutting(create.wired.line(sandbox.id)):
        for number in range(40):
            result = await sandbox.sh(f"echo {number} >> started; echo {number}; exit 3")
            assert (result.exit_code, result.text) == (3, f"{number}\n")
    started = await sandbox.files.read_text("started")
    assert started.split() == [str(number) for number in range(40)]


@promise
async def test_files_cross_broken_connections_whole(create: Making, tmp_path: Path) -> None:
    """Reads, writes, uploads and downloads go on where they were."""
    sandbox = await create()
    content = b"".join(b"%d " % number for number in range(300_000))
    up = anyio.Path(tmp_path / "up")
    await up.mkdir()
    for number in range(20):
        await (up / f"f{number}").write_bytes(content[number : number + 100_000])
    async with _cutting(create.wired.line(sandbox.id)):
        await sandbox.files.write("file", content)
        assert await sandbox.files.read("file") == content
        await sandbox.files.upload(tmp_path / "up", "tree")
        await sandbox.files.download("tree", tmp_path / "down")
    for number in range(20):
        copy = anyio.Path(tmp_path / f"down/f{number}")
        assert await copy.read_bytes() == content[number : number + 100_000]


@promise
async def test_tunnels_survive_broken_connections(create: Making) -> None:
    """An open TCP connection through the channel does not notice."""
    sandbox = await create()
    script = """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        print(server.getsockname()[1], flush=True)
        peer = server.accept()[0]
        while data := peer.recv(65536):
            peer.sendall(data)
    """
    async with await sandbox.spawn(program(script)) as server:
        port = int(await read_until(server.stdout, b"\n"))
        async with sandbox.ports.forward(port) as address, _cutting(create.wired.line(sandbox.id)):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            for number in range(100):
                writer.write(b"%d " % number * 1000)
                await writer.drain()
                assert await reader.readexactly(len(b"%d " % number * 1000))
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()


@promise
async def test_what_ended_during_a_break_is_told_after_it(create: Making) -> None:
    """Output and exit code wait for the connection to come back."""
    sandbox = await create()
    line = create.wired.line(sandbox.id)
    marked = mark()
    async with await sandbox.spawn(
        ["sh", "-c", f"read l; sleep 0.2; echo {marked}; exit 5"], stdin=PIPE
    ) as process:
        await process.stdin.write(b"\n")
        line.down = True
        line.cut()
        await asyncio.sleep(0.5)
        assert process.exit_code is None
        line.down = False
        assert await process.stdout.read() == f"{marked}\n".encode()
        assert await process.wait() == 5


@promise
async def test_signals_and_time_outs_cross_a_break(create: Making) -> None:
    """A kill that was asked for while there was no connection is done when there is."""
    sandbox = await create()
    line = create.wired.line(sandbox.id)
    marked = mark()
    async with anyio.create_task_group() as tasks:

        async def break_it() -> None:
            line.down = True
            line.cut()
            await asyncio.sleep(1.0)
            line.down = False

        tasks.start_soon(break_it)
        result = await sandbox.exec(["sleep", marked], timeout_s=0.5)
        assert result.timed_out
    await until_gone(sandbox, marked)


@promise
async def test_a_connection_that_stays_away_is_told(create: Making) -> None:
    """After the lease it is `ConnectionLostError`: no exit code is invented, nobody hangs."""
    sandbox = await create(lease_s=1.0)
    line = create.wired.line(sandbox.id)
    async with anyio.create_task_group() as tasks:

        async def lost() -> None:
            with pytest.raises(ConnectionLostError):
                await sandbox.exec(["sleep", "60"])

        tasks.start_soon(lost)
        await asyncio.sleep(0.2)
        line.down = True
        line.cut()
    with pytest.raises(SandboxError):
        await sandbox.exec(["true"])
