"""What keeps a sandbox from being idle, and what does not: the guest decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

from sandboxkit.channel.activity import Sleeper, quietly
from sandboxkit.channel.requests import PIPE
from sandboxkit.errors import ExecStartError, SandboxDiedError
from sandboxkit.sandbox import Sandbox

pytestmark = pytest.mark.slow

LONG_S = 60.0
IDLE_S = 1.0
BOTH_ENDS = """
import socket, sys
server = socket.create_server(("127.0.0.1", 8000))
client = socket.create_connection(("127.0.0.1", 8000))
print("connected", flush=True)
sys.stdin.read(1)
"""


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker", idle_timeout_s=IDLE_S) as sandbox:
        yield sandbox


async def ended(sandbox: Sandbox) -> str:
    """Wait for its end; why it came."""
    with anyio.fail_after(LONG_S):
        while sandbox.failure is None:  # to ask for it is no activity
            await anyio.sleep(0.05)
    assert isinstance(sandbox.failure, SandboxDiedError)
    return sandbox.failure.code


async def asked(sleeper: Sleeper, within_s: float = LONG_S) -> bool:
    """Whether the guest says that it is idle."""
    with anyio.move_on_after(within_s) as waited:
        await sleeper.until_idle()
    return not waited.cancelled_caught


async def test_a_process_that_waits_is_no_activity(sandbox: Sandbox) -> None:
    await sandbox.spawn(["cat"], stdin=PIPE, passive=True)
    assert await ended(sandbox) == "idle"


async def test_output_alone_is_no_activity(sandbox: Sandbox) -> None:
    process = await sandbox.spawn(["sh", "-c", "while sleep 0.1; do echo x; done"], passive=True)
    with anyio.fail_after(LONG_S), pytest.raises(SandboxDiedError) as told:
        await process.stdout.read()
    assert told.value.code == "idle"


async def test_a_process_that_has_ended_is_no_activity(sandbox: Sandbox) -> None:
    process = await sandbox.spawn(["true"])
    await process.wait()  # and it is never closed
    assert await ended(sandbox) == "idle"


async def test_a_sleeper_is_asked_in_place_of_the_end(sandbox: Sandbox) -> None:
    sleeper = sandbox.activity.sleeper()
    assert await asked(sleeper)
    assert await sleeper.still()
    assert sandbox.failure is None
    sleeper.close()
    assert await ended(sandbox) == "idle"


@pytest.mark.parametrize("what", ["command", "hold", "forward", "port"])
async def test_activity(engine: str, what: str) -> None:
    async with Sandbox.create("docker", idle_timeout_s=IDLE_S) as sandbox:
        sleeper = sandbox.activity.sleeper()
        if what == "command":
            async with await sandbox.spawn(["sleep", "60"]):
                assert not await asked(sleeper, 2.5 * IDLE_S)
        elif what == "hold":
            with sandbox.activity.hold():
                assert not await asked(sleeper, 2.5 * IDLE_S)
        else:
            script = "import socket as s; c = s.create_server(('127.0.0.1', 8000)).accept()[0]; "
            process = await sandbox.spawn(["python3", "-c", script + "c.recv(1)"], passive=True)
            async with sandbox.ports.forward(8000) as address:
                writer = await connected(sandbox, address.port)
                assert not await asked(sleeper, 2.5 * IDLE_S)
                writer.close()
            await process.wait()
        assert await asked(sleeper)


async def connected(sandbox: Sandbox, port: int) -> asyncio.StreamWriter:
    with anyio.fail_after(LONG_S), quietly():
        while (await sandbox.sh("grep ':1F40 .* 0A ' /proc/net/tcp")).exit_code:
            await anyio.sleep(0.05)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    return writer


async def test_the_gateways_connections_are_none(sandbox: Sandbox) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    script = "import socket, sys; c = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
    async with server, sandbox.ports.reverse(0, "127.0.0.1", port, passive=True) as inside:
        argv = ["python3", "-c", script + " c.recv(1); c.recv(1)", str(inside.port)]
        await sandbox.spawn(argv, passive=True)
        assert await ended(sandbox) == "idle"


async def test_what_begins_after_the_question_is_seen(sandbox: Sandbox) -> None:
    sleeper = sandbox.activity.sleeper()
    assert await asked(sleeper)
    await sandbox.exec(["true"])
    assert not await sleeper.still()


async def test_what_is_done_quietly_is_none(sandbox: Sandbox) -> None:
    sleeper = sandbox.activity.sleeper()
    assert await asked(sleeper)
    with quietly():
        await sandbox.files.write("saved", "x")
        await sandbox.exec(["true"])
    assert await sleeper.still()


async def test_another_host_begins_nothing_while_it_falls_asleep(sandbox: Sandbox) -> None:
    sleeper = sandbox.activity.sleeper()
    async with Sandbox.attach("docker", sandbox.id) as other:
        assert await asked(sleeper)
        with pytest.raises(ExecStartError) as refused:
            await other.exec(["true"])
        assert refused.value.code == "asleep"
        assert await sleeper.still()
        sleeper.close()
        while not await admitted(other):  # it hears of the one before the other
            await anyio.sleep(0.05)


async def admitted(sandbox: Sandbox) -> bool:
    try:
        await sandbox.exec(["true"])
    except ExecStartError as error:
        return error.code != "asleep"
    return True


async def test_one_that_was_left_in_the_middle_counts(engine: str) -> None:
    async with Sandbox.create("docker", idle_timeout_s=IDLE_S) as sandbox:
        sleeper = sandbox.activity.sleeper()
        first = await Sandbox.attach("docker", sandbox.id)
        hold = first.activity.hold()
        hold.__enter__()
        process = await first.spawn(["cat"], stdin=PIPE, detach=True, passive=True)
        await first.detach(keep_s=60)
        assert not await asked(sleeper, 2.5 * IDLE_S)
        taken_up = await sandbox.process(process.id)
        assert await asked(sleeper)
        await taken_up.kill()


@pytest.mark.parametrize("declared", [True, False])
async def test_a_declared_port_with_a_connection(engine: str, declared: bool) -> None:
    """It is made inside: the guest does not see the backend's own proxy come, either."""
    ports = (8000,) if declared else ()
    async with Sandbox.create(
        "docker", idle_timeout_s=IDLE_S, ports=ports, strict=False
    ) as sandbox:
        process = await sandbox.spawn(["python3", "-c", BOTH_ENDS], stdin=PIPE, passive=True)
        assert await process.stdout.receive() == b"connected\n"
        within_s = 2.5 * IDLE_S if declared else LONG_S
        assert await asked(sandbox.activity.sleeper(), within_s) is not declared


async def test_to_ask_how_it_is_does_not_keep_it_awake(sandbox: Sandbox) -> None:
    sleeper = sandbox.activity.sleeper()
    assert await asked(sleeper)
    assert (await sandbox.health()).ok
    assert await sleeper.still()
