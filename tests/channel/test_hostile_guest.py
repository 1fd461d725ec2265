"""A guest in a stranger's hands: every lie is a typed error, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import anyio
import pytest

from sandboxkit.channel.execution import execute
from sandboxkit.channel.files import Files
from sandboxkit.channel.process import Process
from sandboxkit.channel.requests import request_for
from sandboxkit.channel.tunnels import Ports, reverse
from sandboxkit.errors import (
    ConnectionLostError,
    ExecStartError,
    ProtocolError,
    SandboxClosedError,
    SandboxError,
    SizeLimitError,
)
from sandboxkit.guest import wire
from sandboxkit.providers.base import Exposed
from tests.channel.hostile import Connection, Script, client

REQUEST = request_for(["true"], cwd=None, env=None, user=None)
OUTPUTS = (wire.STDOUT, wire.STDERR)


def answering(*frames: tuple[int, Any]) -> Script:
    """Welcome the host; answer each channel with these frames, then with the ends."""

    async def script(connection: Connection) -> None:
        await connection.welcome()
        while True:
            opened = await connection.hear(wire.OPEN)
            for kind, value in frames:
                if isinstance(value, bytes):
                    connection.say(wire.pack(kind, opened.channel, value, wire.STDOUT))
                else:
                    connection.say(wire.pack_json(kind, opened.channel, value))
            for stream in OUTPUTS:
                connection.say(wire.pack(wire.EOF, opened.channel, b"", stream, 2**40))

    return script


async def run(guest: Any) -> Any:
    with anyio.fail_after(20):
        return await execute(guest, REQUEST, stdin=None, timeout_s=None, max_output_bytes=100)


@pytest.mark.parametrize(
    "welcome",
    [
        {"protocol": 2},
        {"protocol": None},
        {"protocol": [1] * 1000},
        {"error": {"code": "bad_user", "message": "no such user"}},
        {"error": {}},
    ],
    ids=str,
)
async def test_a_welcome_that_is_none(welcome: dict[str, Any]) -> None:
    with pytest.raises((ProtocolError, ExecStartError)):
        async with client(lambda connection: connection.welcome(**welcome)):
            pass


@pytest.mark.parametrize(
    "data",
    [
        wire.pack(wire.WELCOME, 0, b"[" * 100_000),
        wire.pack(wire.WELCOME, 0, b"\xff"),
        wire.pack_json(wire.DONE, 1, {}),
        wire.header(2**32 - 1, wire.WELCOME, 0),
        b"\xff" * 100,
    ],
    ids=lambda data: repr(data[:24]),
)
async def test_an_answer_that_is_no_welcome(data: bytes) -> None:
    async def script(connection: Connection) -> None:
        connection.say(wire.GREETING + data)

    with pytest.raises(ProtocolError):
        async with client(script):
            pass


@pytest.mark.parametrize(
    "done",
    [
        {},
        {"exit": None},
        {"exit": "0"},
        {"exit": True},
        {"exit": 1.5},
        {"exit": [0]},
        {"exit": 0, "output": [1]},
        {"exit": 0, "output": {"1": "x"}},
        {"exit": 0, "output": {"1": -1}},
        {"exit": 0, "output": {"7": 1}},
        {"exit": 0, "output": {"1": 1e9}},
    ],
    ids=str,
)
async def test_a_last_word_that_is_none(done: dict[str, Any]) -> None:
    async with client(answering((wire.DONE, done))) as guest:
        with pytest.raises(ProtocolError):
            await run(guest)


@pytest.mark.parametrize("error", [{"code": 5}, {"message": None}, {"errno": "x"}, {}], ids=str)
async def test_an_error_of_wrong_types_is_still_an_error(error: dict[str, Any]) -> None:
    async with client(answering((wire.DONE, {"error": error}))) as guest:
        with pytest.raises(ExecStartError):
            await run(guest)
        with pytest.raises(SandboxError):
            await Files(lambda: guest).stat("x")


@pytest.mark.parametrize(
    "frame",
    [
        wire.pack(wire.HELLO, 1, b"{}"),
        wire.pack(wire.CALL, 1, b"{}"),
        wire.pack(wire.CLOSE, 1),
        wire.pack(99, 1),
        wire.pack(wire.DATA, 1, b"x", wire.STDIN),
        wire.pack(wire.DATA, 1, b"x", 77),
        wire.pack(wire.DATA, 1, b"x", wire.STDOUT, 2**64 - 1),
        wire.pack(wire.EOF, 1, b"", wire.STDOUT, 2**64 - 1),
        wire.pack(wire.ACK, 1, b"", wire.STDIN, 1),
        wire.pack(wire.REPLY, 1, b"[]"),
        wire.pack(wire.DONE, 1, b"[" * 100_000),
        wire.pack(wire.OPEN, 2**31 + 1, b"nonsense"),
    ],
    ids=repr,
)
async def test_a_frame_that_may_not_be(frame: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.welcome()
        await connection.hear(wire.OPEN)
        connection.say(frame)

    async with client(script) as guest:
        with pytest.raises(ProtocolError):
            await run(guest)
        with pytest.raises(ProtocolError):
            await run(guest)


async def test_frames_of_channels_that_are_not_ours_are_passed_over() -> None:
    async def script(connection: Connection) -> None:
        await connection.welcome()
        opened = await connection.hear(wire.OPEN)
        for number in (0, 5, 2**31, 2**32 - 1):
            connection.say(
                wire.pack(wire.DATA, number, b"x", wire.STDOUT),
                wire.pack_json(wire.DONE, number, {"exit": 3}),
                wire.pack_json(wire.OPEN, number, {"op": "accepted", "listener": 1}),
            )
        connection.say(wire.pack_json(wire.DONE, opened.channel, {"exit": 7}))
        for stream in OUTPUTS:
            connection.say(wire.pack(wire.EOF, opened.channel, b"", stream))

    async with client(script) as guest:
        assert (await run(guest)).exit_code == 7


async def test_the_first_last_word_holds() -> None:
    words = [(wire.DONE, {"exit": 1}), (wire.DONE, {"exit": 2})]
    async with client(answering(*words)) as guest:
        assert (await run(guest)).exit_code == 1


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"name": 1},
        {"name": "../x", "kind": "file", "size": 1, "mode": 1, "mtime": 1, "uid": 1, "gid": 1},
        {"name": "x", "kind": "gate", "size": 1, "mode": 1, "mtime": 1, "uid": 1, "gid": 1},
        {"name": "x", "kind": "file", "size": "1", "mode": 1, "mtime": 1, "uid": 1, "gid": 1},
        {"__class__": "x"},
    ],
    ids=str,
)
async def test_a_description_of_a_file_that_is_none(value: dict[str, Any]) -> None:
    async with client(answering((wire.DONE, value))) as guest:
        with pytest.raises(ProtocolError):
            await Files(lambda: guest).stat("x")


@pytest.mark.parametrize(
    "lines", [b"x\n", b"[" * 9999, b"[1]\n", b'{"name": 1}\n', b"\xff"], ids=repr
)
async def test_a_list_that_is_none(lines: bytes) -> None:
    async with client(answering((wire.DATA, lines), (wire.DONE, {"count": 1}))) as guest:
        with pytest.raises(ProtocolError):
            await Files(lambda: guest).list("x")


async def test_a_file_longer_than_was_asked_for() -> None:
    async with client(answering((wire.DATA, bytes(1000)), (wire.DONE, {}))) as guest:
        with pytest.raises(SizeLimitError):
            await Files(lambda: guest).read("x", max_bytes=999)


async def unexposed(port: int) -> Exposed:
    raise AssertionError(port)


@pytest.mark.parametrize("reply", [{}, {"port": None}, {"port": "80"}, {"port": 70_000}], ids=str)
async def test_a_port_that_is_none(reply: dict[str, Any]) -> None:
    async with client(answering((wire.REPLY, reply))) as guest:
        with pytest.raises(ProtocolError):
            async with Ports(lambda: guest, unexposed).reverse(0, "127.0.0.1", 1):
                pass


@pytest.mark.parametrize("held_s", [1e300, -1.0, float("nan"), float("inf")])
async def test_a_lease_that_cannot_be_is_not_believed(held_s: float) -> None:
    async def script(connection: Connection) -> None:
        await connection.welcome()
        for said in (100.0, held_s):
            lease = await connection.hear(wire.LEASE)
            connection.say(wire.pack_json(wire.LEASE, 0, {"held_s": said}, lease.offset))
        await connection.hear(wire.BYE)

    async with client(script, lease_s=1.0) as guest:
        while guest.held_s == 1.0:  # the first, which is possible
            await asyncio.sleep(0.01)
        while guest.held_s != 1.0:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("held_s", ["x", None, [], {}], ids=str)
async def test_a_lease_that_is_none(held_s: object) -> None:
    async def script(connection: Connection) -> None:
        await connection.welcome()
        lease = await connection.hear(wire.LEASE)
        connection.say(wire.pack_json(wire.LEASE, 0, {"held_s": held_s}, lease.offset))

    async with client(script, lease_s=1.0) as guest:
        with anyio.fail_after(20):
            await guest.failed.wait()
        assert isinstance(guest.failure, ProtocolError)


@pytest.mark.parametrize("offsets", [[], {"1": "x"}, {"9": 1}, {"1": -5}, "x"], ids=str)
async def test_offsets_that_are_none(offsets: object) -> None:
    async with client(answering((wire.REPLY, {"pid": 1, "offsets": offsets}))) as guest:
        channel = guest.channel({"op": "adopt", "process": "x"}, inputs=(0,), outputs=OUTPUTS)
        with anyio.fail_after(20), pytest.raises(ProtocolError):
            await channel.started()


@pytest.mark.parametrize(
    "channels",
    [[], "x", {"x": {}}, {"1": []}, {"1": {"0": "x"}}, {"1": {"0": 5}}, {"1": 7}],
    ids=str,
)
async def test_a_second_welcome_that_is_none(channels: object) -> None:
    async def first(connection: Connection) -> None:
        await connection.welcome()
        await connection.hear(wire.OPEN)
        connection.cut()

    async def second(connection: Connection) -> None:
        await connection.welcome(known=True, channels=channels)
        await connection.hear(wire.OPEN)

    async with client(first, second) as guest:
        if channels == []:  # an empty list is as good as an empty object: nothing is known
            return
        with pytest.raises(ProtocolError):
            await run(guest)


async def test_a_guest_that_forgot_us_loses_what_ran() -> None:
    async def first(connection: Connection) -> None:
        await connection.welcome()
        await connection.hear(wire.OPEN)
        connection.cut()

    async def other(connection: Connection) -> None:
        await connection.welcome(instance="another")

    async with client(first, other) as guest:
        with pytest.raises(ConnectionLostError, match="no longer knows"):
            await run(guest)


async def test_a_guest_that_forgot_us_listens_again() -> None:
    async def first(connection: Connection) -> None:
        await connection.welcome()
        opened = await connection.hear(wire.OPEN)
        connection.say(wire.pack_json(wire.REPLY, opened.channel, {"port": 4321}))
        again.append(opened.json())
        await listening.wait()
        connection.cut()

    async def other(connection: Connection) -> None:
        await connection.welcome(instance="another")
        again.append((await connection.hear(wire.OPEN)).json())
        heard.set()

    again: list[dict[str, Any]] = []
    listening, heard = asyncio.Event(), asyncio.Event()
    async with client(first, other) as guest:
        async with reverse(guest, 0, "127.0.0.1", 9) as address:
            listening.set()
            with anyio.fail_after(20):
                await heard.wait()
        assert address.port == 4321
    first_request, second_request = again
    assert (first_request["op"], first_request["port"]) == ("listen", 0)
    assert second_request == {**first_request, "port": 4321}


async def test_what_was_closed_during_a_reconnect_is_closed_in_the_guest_too() -> None:
    greeted, closed = asyncio.Event(), asyncio.Event()
    heard: list[int] = []

    async def first(connection: Connection) -> None:
        await connection.welcome()
        await connection.hear(wire.OPEN)
        connection.cut()

    async def second(connection: Connection) -> None:
        connection.say(wire.GREETING)
        hello = (await connection.hear(wire.HELLO)).json()
        greeted.set()
        await closed.wait()
        channels = {number: {"0": 0} for number in hello["channels"]}
        again = {"protocol": 1, "instance": "i", "known": True, "channels": channels}
        connection.say(wire.pack_json(wire.WELCOME, 0, again))
        heard.append((await connection.hear(wire.CLOSE)).channel)

    async with client(first, second) as guest:
        channel = guest.channel(REQUEST, outputs=OUTPUTS)
        with anyio.fail_after(20):
            await greeted.wait()
            channel.close()
            closed.set()
            while not heard:
                await anyio.sleep(0.001)
    assert heard == [channel.number]


async def test_who_waits_on_a_channel_that_is_let_go_of_is_told() -> None:
    async with client(answering((wire.REPLY, {"pid": 5}))) as guest:
        channel = guest.channel({**REQUEST, "detach": True}, inputs=(0,), outputs=OUTPUTS)
        process = Process(channel, ["true"], process_id="x", detach=True)
        await channel.started()
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.sleep(0)
        await process.aclose()
        with anyio.fail_after(20), pytest.raises(SandboxClosedError):
            await waiting


async def test_cancelling_is_not_hidden_by_a_guest_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandboxkit.channel.process.KILL_S", 0.05)

    async def silent(connection: Connection) -> None:
        await connection.welcome()

    async with client(silent) as guest:
        task = asyncio.ensure_future(run(guest))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_long_lease_is_no_reason_to_wait_for_a_guest_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandboxkit.channel.client._SILENT_S", 0.2)
    again = asyncio.Event()

    async def silent(connection: Connection) -> None:
        await connection.welcome()

    async def second(connection: Connection) -> None:
        await connection.welcome(known=True)
        again.set()

    async with client(silent, second, lease_s=3600.0):
        await asyncio.wait_for(again.wait(), 30)


@pytest.mark.parametrize("seed", range(30))
async def test_garbage_ends_in_a_typed_error(seed: int) -> None:
    rng = random.Random(seed)

    async def script(connection: Connection) -> None:
        await connection.welcome()
        opened = await connection.hear(wire.OPEN)
        for _ in range(200):
            payload = rng.choice([rng.randbytes(20), b"{}", b'{"exit":0}', b"[]", b""])
            number = rng.choice([0, opened.channel, rng.randrange(2**32)])
            kind, offset = rng.randrange(16), rng.choice([0, rng.randrange(2**64)])
            connection.say(wire.pack(kind, number, payload, rng.randrange(4), offset))
        connection.say(rng.randbytes(64) + bytes([255]) * 64)

    async with client(script) as guest:
        with contextlib.suppress(SandboxError):
            await run(guest)  # it may have ended before the nonsense that ends it all
        with pytest.raises(SandboxError):
            await run(guest)
