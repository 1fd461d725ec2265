"""Taking up a detached process: which there are, and from whom one may be had."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import anyio

from sandboxkit.channel.process import start
from sandboxkit.channel.requests import MAX_NOTE
from sandboxkit.errors import ProcessHeldError, ProtocolError

if TYPE_CHECKING:
    from sandboxkit.channel.client import GuestClient
    from sandboxkit.channel.process import Process

_LOOK_S: Final = 0.25
_LONGEST_S: Final = 45.0  # a host that says nothing for 30 s is taken for dead by the guest
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


async def list_processes(client: GuestClient) -> list[ProcessInfo]:
    """See `Sandbox.processes`."""
    channel = client.channel({"op": "processes"})
    try:
        said: object = (await channel.finished()).get("processes")
        channel.raise_error()
    finally:
        channel.close()
    if not isinstance(said, list):
        raise ProtocolError("the guest sent processes that are not a list")
    return [_read(one) for one in cast("list[object]", said)]


def _read(said: object) -> ProcessInfo:
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


async def adopt(client: GuestClient, process_id: str, *, by_hand: bool) -> Process:
    """Take up a process that no host has, or whose host seems to be dead.

    Where it is held, this waits until it is known whether that host lives: until it says
    something (10 s at most), or has said nothing for so long that the guest gives it up.

    Raises:
        ProcessHeldError: It lives.
        ExecStartError: There is no such process.
    """
    request = {"op": "adopt", "process": process_id}
    began: float | None = None
    while True:
        try:
            return await start(client, request, [process_id], process_id, by_hand=by_hand)
        except ProcessHeldError as held:
            now = time.monotonic()
            began = now if began is None else began
            spoke = held.connected and held.silent_s < now - began
            if spoke or now - began > _LONGEST_S:
                raise
        await anyio.sleep(_LOOK_S)
