"""What outlives its host: detached processes and ports, and how another host takes them."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .channels import Channel, Client, Taken, failure
from .loop import Loop
from .process import Program
from .spawn import StartError
from .tunnels import Listener

_MAX_SHOWN = 100  # arguments, and characters of each, in the list of processes
_ENDED_KEPT = 64  # detached processes that have ended, and that nobody has asked for
_PORTS_KEPT = 64
_NOTES_SHOWN = 32  # of 16 KiB at most: the list must fit into a frame


class Adrift:
    """What no host has, and what a host has that seems to be dead."""

    def __init__(self, loop: Loop, clients: Dict[str, Client]) -> None:
        self._loop = loop
        self._clients = clients
        self._programs: Dict[str, Program] = {}
        self._listeners: Dict[int, Listener] = {}

    @property
    def busy(self) -> bool:
        return any(program.busy for program in self._programs.values())

    def leave(self, client: Client, channel: Channel, held: bool) -> bool:
        """Its host lets go of the channel, perhaps in the middle of something; is it kept?"""
        if isinstance(channel, Program) and channel.detach:
            client.channels.pop(channel.number, None)
            channel.set_adrift()
            channel.held = held  # until another host takes it up
            self._programs[channel.id] = channel
            ended = [each for each in self._programs.values() if not each.alive]
            for oldest in ended[:-_ENDED_KEPT]:
                self._programs.pop(oldest.id).abort()
            return True
        if isinstance(channel, Listener) and channel.detach:
            client.channels.pop(channel.number, None)
            channel.set_adrift()
            self._listeners[channel.port] = channel
            for port in list(self._listeners)[:-_PORTS_KEPT]:
                self._listeners.pop(port).abort()
            return True
        return False

    def abort(self) -> None:
        for program in self._programs.values():
            program.abort()

    # another host

    def adopt(self, client: Client, number: int, process: str) -> Channel:
        """The program, or why it cannot be had."""
        program = self._programs.pop(process, None)
        if program is None:
            found = self._held(process)
            if found is None:
                raise StartError("not_found", "there is no detached process %s" % process)
            holder = found.client
            if holder is client or not holder.gone:
                return _refused(client, number, self._loop, holder)
            self._take(holder, found)
            found.set_adrift()
            program = found
        program.adopt(client, number)
        program.held = False
        return program

    def listen(self, client: Client, number: int, request: Dict[str, Any]) -> Listener:
        """A listener; on the port of one that was left, or whose host seems to be dead."""
        port = int(request["port"])
        left = self._listeners.pop(port, None)
        if left is None and port:
            left = self._left_listening(port)
        taken = None if left is None else left.give()
        return Listener(client, number, self._loop, request, taken)

    def ports(self, asking: Client) -> List[Dict[str, Any]]:
        """The detached ones of others that have a note: which may be had, or may soon."""
        left: List[Tuple[Optional[Client], Listener]] = [
            (None, listener) for listener in self._listeners.values()
        ]
        return [
            {
                "port": listener.port,
                "note": listener.note,
                "free": holder is None or holder.gone,
                "connected": holder is not None and holder.link is not None,
            }
            for holder, listener in [*left, *self._held_ports()]
            if listener.note and holder is not asking
        ][-_NOTES_SHOWN:]

    def _held_ports(self) -> Iterator[Tuple[Client, Listener]]:
        for holder in list(self._clients.values()):
            for channel in list(holder.channels.values()):
                if isinstance(channel, Listener) and channel.detach:
                    yield holder, channel

    def _left_listening(self, port: int) -> Optional[Listener]:
        for holder, listener in self._held_ports():
            if listener.port == port and holder.gone:
                self._take(holder, listener)
                return listener
        return None

    def _take(self, holder: Client, channel: Channel) -> None:
        holder.channels[channel.number] = Taken(holder, channel.number, self._loop)

    def _held(self, process: str) -> Optional[Program]:
        found = [each for each in self._of_hosts() if each.id == process and each.detach]
        return found[0] if found else None

    def _of_hosts(self) -> Iterator[Program]:
        for client in self._clients.values():
            for channel in client.channels.values():
                if isinstance(channel, Program):
                    yield channel

    def processes(self) -> List[Dict[str, Any]]:
        programs = [*self._of_hosts(), *self._programs.values()]
        noted = sorted((p for p in programs if p.note), key=lambda p: not p.alive)
        return [
            {
                "id": p.id,
                "pid": p.pid,
                "argv": [argument[:_MAX_SHOWN] for argument in p.argv[:_MAX_SHOWN]],
                "running": p.alive,
                "detached": p.id in self._programs,
                "note": p.note if at < _NOTES_SHOWN else "",
            }
            for at, p in enumerate([*noted, *(p for p in programs if not p.note)])
        ]


def _refused(client: Client, number: int, loop: Loop, holder: Client) -> Channel:
    who = "this host" if holder is client else holder.name or "another host"
    why = {
        **failure("held", "it is held by %s" % who),
        "connected": holder.link is not None,
        "silent_s": time.monotonic() - holder.heard,
    }
    return Taken(client, number, loop, why)
