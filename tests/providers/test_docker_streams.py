"""The standard streams of a spawned program: every byte, every end, every exit code."""

from __future__ import annotations

import asyncio
import hashlib
import os
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from sandboxkit.errors import ConnectionLostError, ExecStartError
from sandboxkit.providers.base import Command
from sandboxkit.providers.docker.handle import DockerHandle
from sandboxkit.providers.docker.stream import Demultiplexer, FrameError, HijackedChannel, Outcome
from tests.providers.conftest import output_of

SIZE = 50 * 1024 * 1024
HOSTILE = bytes(range(256)) * 4096  # every byte, NUL and 255 among them


def frame(fd: int, data: bytes) -> bytes:
    return bytes([fd, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


async def test_50_mb_in_and_out_arrive_exactly(sandbox: DockerHandle) -> None:
    channel = await sandbox.spawn(Command(argv=("cat",)))
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def feed() -> None:
        for at in range(SIZE // len(HOSTILE)):
            piece = HOSTILE[at:] + HOSTILE[:at]
            sent.update(piece)
            await channel.send(piece)
        await channel.send_eof()
        await channel.send_eof()

    feeding = asyncio.ensure_future(feed())
    total = 0
    while (output := await channel.receive()) is not None:
        assert output.fd == 1
        assert 0 < len(output.data) <= 1024 * 1024
        received.update(output.data)
        total += len(output.data)
    await feeding
    assert total == SIZE
    assert received.digest() == sent.digest()
    assert await channel.wait() == 0
    assert await channel.receive() is None
    await channel.aclose()


async def test_stderr_is_separate_and_the_exit_code_is_the_programs(sandbox: DockerHandle) -> None:
    script = "printf 'a\\000\\377'; printf err >&2; exit 7"
    channel = await sandbox.spawn(Command(argv=("sh", "-c", script)))
    assert await output_of(channel) == (b"a\0\xff", b"err")
    assert await channel.wait() == 7
    await channel.aclose()


async def test_a_death_by_signal_is_its_negative_number(sandbox: DockerHandle) -> None:
    channel = await sandbox.spawn(Command(argv=("sh", "-c", "kill -KILL $$")))
    assert await channel.wait() == -9
    await channel.aclose()


async def test_the_end_of_stdin_reaches_the_program_and_output_goes_on(
    sandbox: DockerHandle,
) -> None:
    channel = await sandbox.spawn(Command(argv=("sh", "-c", "wc -c; echo after")))
    await channel.send(b"12345")
    await channel.send_eof()
    stdout, _ = await output_of(channel)
    assert stdout.split() == [b"5", b"after"]
    with pytest.raises(ConnectionLostError):
        await channel.send(b"more")
    await channel.aclose()


async def test_the_end_of_output_is_not_the_end_of_the_program(sandbox: DockerHandle) -> None:
    script = "exec >/dev/null 2>/dev/null; read line; exit 5"
    channel = await sandbox.spawn(Command(argv=("bash", "-c", script)))
    waiting = asyncio.ensure_future(channel.wait())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await channel.send_eof()
    assert await waiting == 5
    await channel.aclose()


async def test_a_slow_reader_stalls_the_program_and_not_the_host(sandbox: DockerHandle) -> None:
    # What is on its way fits into the pipes and Docker's buffers: a few MB, of 200.
    script = "head -c 200000000 /dev/zero & wait; echo written >&2"
    channel = await sandbox.spawn(Command(argv=("sh", "-c", script)))
    await asyncio.sleep(1.0)
    probe = await sandbox.spawn(Command(argv=("pgrep", "-c", "head")))
    assert (await output_of(probe))[0].strip() == b"1"  # it is still there, blocked
    await probe.aclose()
    stdout, stderr = await output_of(channel)
    assert len(stdout) == 200_000_000
    assert stderr == b"written\n"
    await channel.aclose()


async def test_cancelling_receive_loses_no_byte(sandbox: DockerHandle) -> None:
    script = "for i in $(seq 400); do echo line $i; sleep 0.002; done"
    channel = await sandbox.spawn(Command(argv=("sh", "-c", script)))
    received, cancelled = b"", 0
    while True:
        receiving = asyncio.ensure_future(channel.receive())
        done, _ = await asyncio.wait({receiving}, timeout=0.001)
        if not done:
            receiving.cancel()
        try:
            output = await receiving
        except asyncio.CancelledError:
            cancelled += 1
            continue
        if output is None:
            break
        received += output.data
    assert received.decode().splitlines() == [f"line {n}" for n in range(1, 401)]
    assert cancelled > 50
    await channel.aclose()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Command(argv=("/nowhere/program",)), "not_found"),
        (Command(argv=("/etc/passwd",)), "not_executable"),
        (Command(argv=("true",), cwd="/nowhere"), "bad_cwd"),
        (Command(argv=("true",), user="nobody-here"), "bad_user"),
    ],
)
async def test_a_program_that_cannot_start_says_why(
    sandbox: DockerHandle, command: Command, code: str
) -> None:
    with pytest.raises(ExecStartError) as raised:
        await sandbox.spawn(command)
    assert raised.value.code == code


async def test_frames_may_be_cut_anywhere() -> None:
    data = os.urandom(70_000)
    stream = frame(1, b"ab") + frame(2, b"") + frame(2, b"x") + frame(1, data) + frame(1, b"end")
    cuts = [0, 1, 7, 8, 9, 10, 17, 26, 27, 28, 1000, len(stream) - 1, len(stream)]
    frames = Demultiplexer()
    outputs = [o for begin, end in pairwise(cuts) for o in frames.feed(stream[begin:end])]
    assert b"".join(o.data for o in outputs if o.fd == 1) == b"ab" + data + b"end"
    assert b"".join(o.data for o in outputs if o.fd == 2) == b"x"
    assert not frames.inside
    frames.feed(frame(1, b"abc")[:-1])
    assert frames.inside


async def test_a_stream_that_ends_within_a_frame_was_cut(tmp_path: Path) -> None:
    async def say_half(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(1, b"whole") + frame(1, b"half")[:-2])
        writer.close()

    async def ended() -> Outcome:
        return Outcome("ended", 0)

    path = tmp_path / "engine.sock"
    async with await asyncio.start_unix_server(say_half, path):
        channel = HijackedChannel(await anyio.connect_unix(path), b"", ended, "some-id")
        received = b""
        while len(received) < len(b"wholeha"):
            output = await channel.receive()
            assert output is not None
            received += output.data
        with pytest.raises(ConnectionLostError, match="middle of its output"):
            await channel.receive()
        assert received == b"wholeha"
        await channel.aclose()


@pytest.mark.parametrize(
    "wrong", [b"HTTP/1.1 500 x", b"\x01\x01\0\0\0\0\0\x01a", frame(3, b"oops")]
)
async def test_what_is_no_frame_is_refused(wrong: bytes) -> None:
    with pytest.raises(FrameError):
        Demultiplexer().feed(wrong)


async def test_a_container_killed_under_a_program_ends_its_streams(sandbox: DockerHandle) -> None:
    channel = await sandbox.spawn(Command(argv=("cat",)))
    await sandbox.destroy()
    with anyio.fail_after(30):
        assert await channel.receive() is None
        assert await channel.wait() in {None, -9}
    await channel.aclose()
