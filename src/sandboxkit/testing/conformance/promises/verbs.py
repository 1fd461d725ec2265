"""The verbs of a provider by themselves: spawn and its byte channel, create, destroy.

Only lines of ASCII are sent, so that both encodings can be asked for the same.
"""

from __future__ import annotations

import json

import anyio
import pytest

from sandboxkit.errors import ExecStartError, SandboxDiedError, SandboxNotFoundError
from sandboxkit.providers.base import ByteChannel, Command, SandboxHandle
from sandboxkit.testing.conformance.fixtures import Making
from sandboxkit.testing.conformance.inside import program
from sandboxkit.testing.conformance.promise import promise
from sandboxkit.testing.conformance.wires import WiredProvider


async def _rest(channel: ByteChannel) -> bytes:
    seen = b""
    while (output := await channel.receive()) is not None:
        seen += output.data if output.fd == 1 else b""
    return seen


async def _run(handle: SandboxHandle, command: Command) -> tuple[bytes, int | None]:
    channel = await handle.spawn(command)
    try:
        await channel.send_eof()
        return await _rest(channel), await channel.wait()
    finally:
        await channel.aclose()


@promise
async def test_spawn_connects_stdin_and_stdout(handle: SandboxHandle) -> None:
    """What is sent is read by the program, what it writes is received, each with an end."""
    channel = await handle.spawn(Command(("cat",)))
    try:
        seen = b""
        for line in (b"one\n", b"two\n"):
            await channel.send(line)
            while not seen.endswith(line):
                output = await channel.receive()
                assert output is not None
                assert output.fd == 1
                seen += output.data
        await channel.send_eof()
        await channel.send_eof()
        assert await _rest(channel) == b""
        assert seen == b"one\ntwo\n"
        assert await channel.wait() in {0, None}
    finally:
        await channel.aclose()
        await channel.aclose()


@promise
async def test_spawn_tells_the_exit_code_or_nothing(handle: SandboxHandle) -> None:
    """`wait` gives the program's own code, or None where it cannot be known: never a guess.

    (Above 128, many a backend cannot tell an exit code from a signal.)
    """
    for code in (0, 1, 7, 125, 126, 127):
        stdout, told = await _run(handle, Command(("sh", "-c", f"echo said; exit {code}")))
        assert stdout == b"said\n"
        assert told in {code, None}


@promise
async def test_spawn_passes_arguments_and_environment_verbatim(handle: SandboxHandle) -> None:
    """Arguments are not joined, split or expanded; a value is one variable, as it is."""
    words = ["a b", "", "$HOME", "'\"", "*", "; echo no", "-x", "a\nb", "é"]
    script = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['KIT']]))"
    command = Command(tuple(program(script, *words)), env={"KIT": "x\ny='$HOME'"})
    stdout, _ = await _run(handle, command)
    assert json.loads(stdout) == [words, "x\ny='$HOME'"]


@promise
async def test_spawn_starts_where_it_is_told(handle: SandboxHandle) -> None:
    """`cwd` is the program's directory."""
    assert (await _run(handle, Command(("pwd",), cwd="/usr")))[0] == b"/usr\n"


@promise
async def test_spawn_runs_as_the_guests_user_where_it_is_claimed(
    handle: SandboxHandle, wired: WiredProvider
) -> None:
    """The user that the guest shall run as can be had."""
    user = wired.capabilities().guest_user
    if user is not None:
        stdout, _ = await _run(handle, Command(("sh", "-c", "id -u; id -un"), user=user))
        assert user in stdout.decode().split()


@promise
async def test_spawn_says_that_a_program_is_missing(handle: SandboxHandle) -> None:
    """A program that is not there is `ExecStartError`, or 127 by the backend's own shell."""
    said = ""
    try:
        _, code = await _run(handle, Command(("/no/such/program",)))
    except ExecStartError as error:
        said = str(error)
    else:
        assert code == 127
        return
    assert "/no/such/program" in said


@promise
async def test_spawn_carries_megabytes_in_both_directions(handle: SandboxHandle) -> None:
    """Many lines cross at once, in order, none lost or doubled."""
    lines = b"".join(b"%d %s\n" % (number, b"x" * 100) for number in range(30_000))
    channel = await handle.spawn(Command(("cat",)))

    async def send() -> None:
        for at in range(0, len(lines), 109 * 300):
            piece = lines[at : at + 109 * 300]
            await channel.send(piece if channel.encoding == "binary" else _whole(lines, at))
        await channel.send_eof()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            assert await _rest(channel) == lines
    finally:
        await channel.aclose()


def _whole(lines: bytes, at: int) -> bytes:
    """The lines that start in a piece of this length: text is sent by whole lines only."""
    start = lines.rfind(b"\n", 0, at) + 1
    end = lines.rfind(b"\n", 0, at + 109 * 300) + 1
    return lines[start:end] if at + 109 * 300 < len(lines) else lines[start:]


@promise
async def test_a_cancelled_receive_of_a_channel_loses_nothing(handle: SandboxHandle) -> None:
    """What was not returned is returned by the next call."""
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.02; done"
    channel = await handle.spawn(Command(("sh", "-c", script)))
    seen = b""
    try:
        while seen.count(b"\n") < 9:
            with anyio.move_on_after(0.005):
                output = await channel.receive()
                assert output is not None
                seen += output.data
    finally:
        await channel.aclose()
    assert seen == b"1\n2\n3\n4\n5\n6\n7\n8\n9\n"


@promise
async def test_channels_are_independent(handle: SandboxHandle) -> None:
    """Several programs run at once, each with streams of its own."""

    async def once(number: int) -> None:
        stdout, _ = await _run(handle, Command(("sh", "-c", f"sleep 0.1; echo {number}")))
        assert stdout == b"%d\n" % number

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(once, number)


@promise
async def test_spawn_in_a_sandbox_that_has_ended_says_so(create: Making) -> None:
    """It is `SandboxDiedError` or `SandboxNotFoundError`, not a failure of the program."""
    sandbox = await create()
    handle = await create.wired.attach(sandbox.id)
    await sandbox.destroy()
    with anyio.fail_after(30), pytest.raises((SandboxDiedError, SandboxNotFoundError)):
        await handle.spawn(Command(("true",)))
