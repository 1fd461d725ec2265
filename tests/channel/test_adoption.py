"""A detached process: kept for the next host, taken from a dead one, refused to a second."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.abc
import pytest

from sandboxkit.channel.requests import PIPE
from sandboxkit.errors import (
    ExecStartError,
    InvalidSpecError,
    ProcessHeldError,
    ProcessTakenError,
)
from sandboxkit.sandbox import Sandbox

FLOOD = "head -c 3000000 /dev/zero | tr '\\0' x; echo end"
ECHO = 'while read line; do echo "got $line"; done'


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    """Its host speaks every second."""
    async with Sandbox.create("docker", lease_s=6) as sandbox:
        yield sandbox


@pytest.fixture
async def again(sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    async with Sandbox.attach("docker", sandbox.id) as again:
        yield again


async def test_output_without_a_host_is_not_lost(sandbox: Sandbox, again: Sandbox) -> None:
    process = await sandbox.spawn(["sh", "-c", FLOOD], detach="lossless")
    await process.aclose()
    taken = await again.process(process.id)
    assert await taken.stdout.read() == b"x" * 3_000_000 + b"end\n"
    assert taken.stdout.lost_bytes == 0
    assert await taken.wait() == 0


async def test_what_was_not_acknowledged_comes_again(sandbox: Sandbox, again: Sandbox) -> None:
    """With what the host before has left beside it."""
    argv = ["sh", "-c", "echo one; echo two; echo three; cat"]
    process = await sandbox.spawn(
        argv, stdin=PIPE, detach="lossless", note="a note", acknowledge="by_hand"
    )
    got = b""
    while len(got) < 14:
        got += await process.stdout.receive()
    process.stdout.acknowledge(4, "behind one")
    await process.set_note("another")
    await process.aclose()

    found = None
    while found is None or not found.detached:  # the two hosts have a connection each
        (found,) = [one for one in await again.processes() if one.id == process.id]
    assert (found.note, found.running) == ("another", True)
    taken = await again.process(process.id, acknowledge="by_hand")
    assert (taken.note, taken.stdout.mark, taken.stdout.begins) == ("another", "behind one", 4)
    rest = b""
    while len(rest) < 10:
        rest += await taken.stdout.receive()
    assert rest == b"two\nthree\n"
    assert taken.stdout.unacknowledged == 10
    await taken.kill()
    await taken.aclose()


async def test_a_line_that_is_half_written_is_known(sandbox: Sandbox, again: Sandbox) -> None:
    process = await sandbox.spawn(["cat"], stdin=PIPE, detach=True)
    await process.stdin.write(b"a line\nand half")
    assert await process.stdout.receive() == b"a line\nand half"
    await process.aclose()
    taken = await again.process(process.id)
    assert not taken.input_is_whole
    assert taken.stdin.offset == 15
    await taken.stdin.write(b" a line\n")
    assert await taken.stdout.receive() == b" a line\n"
    await taken.aclose()
    third = await sandbox.process(process.id)
    assert third.input_is_whole
    await third.kill()


async def test_a_process_of_a_host_that_lives_is_refused(sandbox: Sandbox, again: Sandbox) -> None:
    process = await sandbox.spawn(["sh", "-c", ECHO], stdin=PIPE, detach=True)
    with anyio.fail_after(30), pytest.raises(ProcessHeldError, match="process") as raised:
        await again.process(process.id)
    assert raised.value.connected
    assert raised.value.code == "held"
    with anyio.fail_after(30), pytest.raises(ProcessHeldError, match="this host"):
        await sandbox.process(process.id)
    await process.stdin.write(b"it\n")
    assert await process.stdout.receive() == b"got it\n"
    await process.kill()
    with pytest.raises(ExecStartError) as unknown:
        await again.process("0123456789abcdef-7")
    assert unknown.value.code == "not_found"


async def test_a_process_of_a_host_that_is_away_is_lost_to_it(
    sandbox: Sandbox, again: Sandbox
) -> None:
    """It comes back, and gets no more output, and starts nothing a second time."""
    process = await sandbox.spawn(["sh", "-c", ECHO], stdin=PIPE, detach=True)
    other = await sandbox.spawn(["sh", "-c", ECHO], stdin=PIPE)
    client = sandbox._client()  # pyright: ignore[reportPrivateUsage]
    await client.suspend(keep_s=60)
    taken = await again.process(process.id)
    await client.resume()

    with anyio.fail_after(30), pytest.raises(ProcessTakenError):
        await process.stdout.receive()
    with pytest.raises(ProcessTakenError):
        await process.wait()
    with pytest.raises(ProcessTakenError):
        await process.stdin.write(b"mine\n")
    await process.aclose()
    await taken.stdin.write(b"it\n")
    assert await taken.stdout.receive() == b"got it\n"
    await other.stdin.write(b"that\n")  # what was not taken goes on
    assert await other.stdout.receive() == b"got that\n"
    echoes = [one for one in await again.processes() if one.argv[-1] == ECHO]
    assert len(echoes) == 2
    await taken.kill()


async def test_a_port_that_was_left_keeps_who_calls(sandbox: Sandbox, again: Sandbox) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"here")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    here: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with sandbox.ports.lasting(0, "127.0.0.1", here) as left:
            port = left.port
        script = (
            "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); "
            "s.send(b'x'); print('waiting', flush=True); print(s.recv(9))"
        )
        caller = await again.spawn(["python3", "-c", script, str(port)])
        assert await caller.stdout.receive() == b"waiting\n"
        async with again.ports.lasting(port, "127.0.0.1", here) as taken:
            assert await caller.stdout.read() == b"b'here'\n"
            taken.keep = False
        refused = await again.exec(["python3", "-c", script, str(port)])
        assert b"ConnectionRefusedError" in refused.stderr
        tasks.cancel_scope.cancel()


async def test_a_note_has_a_limit(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidSpecError, match="16384"):
        await sandbox.spawn(["true"], note="x" * 16_385)
    process = await sandbox.spawn(["cat"], stdin=PIPE, note="x" * 16_384)
    with pytest.raises(InvalidSpecError):
        await process.set_note("x" * 16_385)
    await process.kill()
