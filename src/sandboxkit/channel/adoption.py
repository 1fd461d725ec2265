"""Taking up what another host has left: which there is, and from whom it may be had."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import anyio

from sandboxkit.channel.process import start
from sandboxkit.channel.requests import MAX_NOTE
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import ExecStartError, ProcessHeldError, ProtocolError

if TYPE_CHECKING:
    from sandboxkit.channel.client import GuestClient
    from sandboxkit.channel.process import Process

_CLOSE_S: Final = 10.0
_LOOK_S: Final = 0.25
_LONGEST_S: Final = 45.0  # a host that says nothing for 30 s is taken for dead by the guest
_LAST_PORT: Final = 65535
_SHOWN: Final = 200  # characters of what a hostile guest may say


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process in the sandbox that was started through a host.

    Attributes:
        id: For `Sandbox.process`.
        pid: Its number inside the sandbox.
        argv: The command, cut after 100 arguments of 100 characters.
        running: Whether it has not ended.
        detached: Whether no host has it.
        note: What its hosts have noted of it.
    """

    id: str
    pid: int
    argv: tuple[str, ...]
    running: bool
    detached: bool
    note: str


@dataclass(frozen=True, slots=True)
class PortInfo:
    """A port in the sandbox that another host has kept, or keeps.

    Attributes:
        port: Its number.
        note: What that host has noted of it.
        free: Whether no host has it, or a host that seems to be dead.
        connected: Whether the host that has it has a connection now.
    """

    port: int
    note: str
    free: bool
    connected: bool


async def list_processes(client: GuestClient) -> list[ProcessInfo]:
    """See `Sandbox.processes`."""
    return [_process(one) for one in await _list(client, "processes")]


async def list_ports(client: GuestClient) -> list[PortInfo]:
    """The ports that other hosts have kept, with a note; see `Listening`."""
    try:
        return [_port(one) for one in await _list(client, "ports")]
    except ExecStartError as error:
        if error.code != "unknown_op":  # the guest of an earlier sandboxkit
            raise
        return []


async def _list(client: GuestClient, what: str) -> list[object]:
    channel = client.channel({"op": what})
    try:
        said: object = (await channel.finished()).get(what)
        channel.raise_error()
    finally:
        channel.close()
    if not isinstance(said, list):
        raise ProtocolError(f"the guest sent {what} that are not a list")
    return cast("list[object]", said)


def _port(said: object) -> PortInfo:
    if isinstance(said, dict):
        match cast("Mapping[str, object]", said):
            case {
                "port": int(port),
                "note": str(note),
                "free": bool(free),
                "connected": bool(connected),
            } if 1 <= port <= _LAST_PORT:
                return PortInfo(port, note[:MAX_NOTE], free, connected)
            case _:
                pass
    raise ProtocolError(f"the guest sent {said!r:.{_SHOWN}} as a port")


def _process(said: object) -> ProcessInfo:
    """One of them, as the guest says it.

    Raises:
        ProtocolError: It says something else.
    """
    if isinstance(said, dict):
        match cast("Mapping[str, object]", said):
            case {
                "id": str(name),
                "pid": int(pid),
                "argv": argv,
                "running": bool(running),
                "detached": bool(detached),
                **rest,
            }:
                note = rest.get("note", "")
                shown = (
                    tuple(map(str, cast("list[object]", argv))) if isinstance(argv, list) else ()
                )
                text = note[:MAX_NOTE] if isinstance(note, str) else ""
                return ProcessInfo(name, pid, shown, running, detached, text)
            case _:
                pass
    raise ProtocolError(f"the guest sent {said!r:.{_SHOWN}} as a process")


async def adopt(
    client: GuestClient, process_id: str, then: Callable[[], Awaitable[None]], *, by_hand: bool
) -> Process:
    """Take up a process that no host has, or whose host seems to be dead.

    Where it is held, this waits until it is known whether that host lives: until it says
    something (10 s at most), or has said nothing for so long that the guest gives it up.

    Args:
        client: The way into the sandbox.
        process_id: The process.
        then: What else is to be done before it is this host's. If that fails, or is cancelled,
            the process is let go again.
        by_hand: Whether its output is acknowledged by who reads it.

    Raises:
        ProcessHeldError: It lives.
        ExecStartError: There is no such process.
    """
    request = {"op": "adopt", "process": process_id}
    began: float | None = None
    while True:
        try:
            process = await start(client, request, [process_id], process_id, by_hand=by_hand)
        except ProcessHeldError as held:
            now = time.monotonic()
            began = now if began is None else began
            spoke = held.connected and held.silent_s < now - began
            if spoke or now - began > _LONGEST_S:
                raise
            await anyio.sleep(_LOOK_S)
            continue
        try:
            await then()
        except BaseException:
            await run_to_end(process.aclose(), deadline_s=_CLOSE_S)
            raise
        return process
