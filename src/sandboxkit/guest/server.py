"""The resident guest: hosts, their leases, their channels, and the end of the sandbox."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import wire
from .activity import Activity, Hold, Sleeper, connected
from .adrift import Adrift
from .channels import MAX_CHANNELS, Channel, Client, Refused, failure
from .link import Link
from .loop import Loop
from .process import FileOperation, Program
from .spawn import StartError, code_of, find_user
from .starter import Starters
from .tunnels import Connection, Listener
from .users import OwnUser, Users
from .vitals import vitals
from .workers import Workers

_TICK_S = 0.25  # how often leases are looked at
_FROZEN_S = 5.0  # without a tick: the machine was paused, or has slept
_FIRST_LEASE_S = 60.0  # for a host that has not said hello yet
_FALLBACK_HOME = "/tmp"
_UNNOTICED = ("extend", "health", "ports", "processes")  # what is no sign of activity
_MAX_NAME = 200  # characters of what a host calls itself


class Server:
    """All hosts of this sandbox.

    Args:
        loop: The event loop.
        end_sandbox: Ends the sandbox as far as the guest can; it is told why.
    """

    def __init__(self, loop: Loop, end_sandbox: Callable[[str], None]) -> None:
        self.loop = loop
        self.instance = os.urandom(8).hex()
        self._end_sandbox = end_sandbox
        self._clients: Dict[str, Client] = {}
        self._links: Dict[Link, Optional[Client]] = {}
        self._adrift = Adrift(loop, self._clients)
        self._starters = Starters(loop)
        self._workers = Workers(loop)
        self._users = Users()
        self._settings: Dict[str, Any] = {}
        self._started = self._ticked = time.monotonic()
        self._activity = Activity(self._busy, lambda: self._settings.get("idle_timeout_s"))
        self._no_host_until = self._started + _FIRST_LEASE_S
        self._makers: Dict[str, Callable[[Client, int, Dict[str, Any]], Channel]] = {
            "exec": lambda host, number, request: Program(
                host, number, loop, self._starters, request
            ),
            "file": lambda host, number, request: FileOperation(
                host, number, loop, self._workers, request
            ),
            "connect": lambda host, number, request: Connection(host, number, loop, request),
            "listen": self._adrift.listen,
            "user": lambda host, number, request: OwnUser(host, number, loop, self._users, request),
            "hold": lambda host, number, _request: Hold(host, number, loop),
            "sleeper": lambda host, number, _request: Sleeper(host, number, loop, self._activity),
            "adopt": self._adopt,
        }
        self._answers: Dict[str, Callable[[Client, Dict[str, Any]], Dict[str, Any]]] = {
            "processes": lambda _host, _request: {"processes": self._adrift.processes()},
            "ports": lambda host, _request: {"ports": self._adrift.ports(host)},
            "settings": self._change,
            "extend": self._extend,
            "health": self._health,
        }
        loop.before_wait.append(self._flush)
        self._tick()

    # connections

    def connect(self, streams: Tuple[int, int], text: bool, on_lost: Callable[[], None]) -> Link:
        def lost(gone: Link) -> None:
            client = self._links.pop(gone, None)
            if client is not None and client.link is gone:
                client.link = None
                client.heard = time.monotonic()
                client.drained()
            on_lost()

        def drained() -> None:
            client = self._links.get(link)
            if client is not None:
                client.drained()

        link = Link(
            self.loop,
            streams,
            text=text,
            on_frame=self._on_frame,
            on_lost=lost,
            on_drained=drained,
        )
        self._links[link] = None
        return link

    def _flush(self) -> None:
        for link in list(self._links):
            link.flush()

    def _on_frame(self, link: Link, frame: wire.Frame) -> None:
        if frame.kind == wire.HELLO:
            self._hello(link, frame.json())
            return
        client = self._links.get(link)
        if client is None:
            raise wire.WireError("the first frame must be HELLO")
        client.heard = time.monotonic()
        if frame.kind == wire.LEASE:
            self._renew(client, frame.json())
            held = {"held_s": self._held_until() - time.monotonic(), "left_s": self._left_s()}
            client.send(wire.pack_json(wire.LEASE, 0, held, frame.offset))
        elif frame.kind == wire.BYE:
            self._leave(client, bool(frame.json().get("last")))
        elif frame.kind == wire.OPEN:
            if frame.channel not in client.channels:
                self._open(client, frame.channel, frame.json())
        else:
            channel = client.channels.get(frame.channel)
            if channel is not None:
                self._on_channel_frame(client, channel, frame)

    def _on_channel_frame(self, client: Client, channel: Channel, frame: wire.Frame) -> None:
        if frame.kind == wire.DATA and frame.stream in channel.receivers:
            channel.on_data(frame.stream, frame.offset, frame.payload)
        elif frame.kind == wire.EOF and frame.stream in channel.receivers:
            channel.on_eof(frame.stream, frame.offset)
        elif frame.kind == wire.ACK and frame.stream in channel.senders:
            channel.on_ack(frame.stream, frame.offset, frame.payload)
        elif frame.kind == wire.CALL:
            channel.on_call(frame.offset, frame.json())
        elif frame.kind == wire.CLOSE:
            self._close(client, channel, bool(frame.payload))
        else:
            raise wire.WireError("an unknown frame, or stream")

    # hosts

    def _hello(self, link: Link, hello: Dict[str, Any]) -> None:
        refusal = self._refusal(hello)
        if refusal is not None:
            link.send(wire.pack_json(wire.WELCOME, 0, {"protocol": wire.PROTOCOL, **refusal}))
            return
        token = str(hello["client"])
        client = self._clients.get(token)
        known = client is not None
        if client is None:
            client = self._clients[token] = Client(token)
        if client.link is not None:
            client.link.close()
        client.link = link
        client.name = str(hello.get("name") or "")[:_MAX_NAME]
        client.heard = time.monotonic()
        self._links[link] = client
        self._activity.woken_by(client)
        self._renew(client, hello)
        received: Dict[str, Dict[str, int]] = hello.get("channels") or {}
        self._forget_closed(client, received, int(hello.get("accepted", 0)))
        client.send(wire.pack_json(wire.WELCOME, 0, self._welcome(client, known)))
        for channel in list(client.channels.values()):
            channel.resume(received.get(str(channel.number), {}))
        client.drained()

    def _refusal(self, hello: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Why this host cannot be served; the first one's settings are taken here."""
        if hello.get("protocol") != wire.PROTOCOL:
            return failure("protocol", "the guest speaks protocol %d only" % wire.PROTOCOL)
        if not self._settings:
            try:
                self._settings = self._apply(hello.get("settings") or {})
                self._no_host_until = 0.0  # from now on the leases say
            except StartError as error:
                return failure(error.code, error.message, error.number)
        return None

    def _forget_closed(self, client: Client, received: Dict[str, Any], accepted: int) -> None:
        for channel in list(client.channels.values()):
            unseen = channel.number > max(accepted, wire.GUEST_CHANNELS)
            if str(channel.number) not in received and not unseen:
                self._close(client, channel, False)

    def _welcome(self, client: Client, known: bool) -> Dict[str, Any]:
        return {
            "protocol": wire.PROTOCOL,
            "instance": self.instance,
            "known": known,
            "pid": os.getpid(),
            "user": self._settings["user"],
            "home": self._settings["home"],
            "workdir": self._settings["workdir"],
            "separate": os.getuid() != self._settings["uid"],
            "left_s": self._left_s(),
            "root": os.getuid() == 0,
            "channels": {str(c.number): c.progress() for c in client.channels.values()},
        }

    def _apply(self, settings: Dict[str, Any]) -> Dict[str, Any]:
        """The first host's settings, with the user looked up and the directories made."""
        user = find_user(settings.get("user"), _FALLBACK_HOME)
        workdir = settings.get("workdir") or user.home
        for path in (workdir, user.home):
            _make_usable(path, user.uid)
        settings.update(user=user.name, uid=user.uid, home=user.home, workdir=workdir)
        return settings

    def _change(self, _client: Client, request: Dict[str, Any]) -> Dict[str, Any]:
        """One that was made ready in advance gets its owner, whose time begins now."""
        limits = {name: request.get(name) for name in ("lifetime_s", "idle_timeout_s")}
        if not all(limit is None or limit > 0 for limit in limits.values()):
            raise StartError("failed", "a limit must be null, or more than 0 seconds")
        self._settings.update(limits, env=request["env"])
        self._started = time.monotonic()
        self._activity.touch()
        return {}

    def _extend(self, _client: Client, request: Dict[str, Any]) -> Dict[str, Any]:
        """Put the end of the life-time off; without an end there is nothing to do."""
        seconds = float(request["seconds"])
        if not 0 < seconds < float("inf"):
            raise StartError("failed", "it can be put off by more than 0 seconds only")
        if self._settings.get("lifetime_s"):
            self._settings["lifetime_s"] += seconds
        return {"left_s": self._left_s()}

    def _left_s(self) -> Optional[float]:
        """Seconds until the life-time is over; None where it has no end."""
        lifetime = self._settings.get("lifetime_s")
        return self._started + float(lifetime) - time.monotonic() if lifetime else None

    def _health(self, client: Client, _request: Dict[str, Any]) -> Dict[str, Any]:
        """How the machine does, and on which ports the guest listens for this host."""
        listeners = [c for c in client.channels.values() if isinstance(c, Listener)]
        ports = [channel.reply["port"] for channel in listeners if channel.reply]
        return {**vitals(), "listening": ports}

    def _renew(self, client: Client, lease: Dict[str, Any]) -> None:
        client.renew(float(lease["lease_s"]))

    def _leave(self, client: Client, last: bool) -> None:
        held = _holds(client)
        for channel in list(client.channels.values()):
            if not self._adrift.leave(client, channel, held):
                self._close(client, channel, False)
        self._no_host_until = max(self._no_host_until, client.deadline)
        self._clients.pop(client.token, None)
        if client.link is not None:
            client.send(wire.pack_json(wire.BYE, 0, {}))
            client.link.flush()
            client.link.close()
        if last:
            self.end("left")

    # channels

    def _open(self, client: Client, number: int, request: Dict[str, Any]) -> None:
        try:
            if len(client.channels) >= MAX_CHANNELS:
                raise StartError("no_resources", "too many channels are open")
            if not self._activity.admits(client):
                raise StartError("asleep", "the sandbox is just being put to sleep")
            made = client.channels[number] = self._make(client, number, self._complete(request))
            made.passive = made.passive or bool(request.get("passive"))
            if not made.passive:
                self._activity.touch()
        except Exception as error:  # noqa: BLE001 - a bad request must not end the guest
            refused = client.channels[number] = Refused(client, number, self.loop)
            cause = error.number if isinstance(error, StartError) else getattr(error, "errno", None)
            refused.say_done(failure(code_of(error), str(error), cause))

    def _complete(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """What the request leaves open comes from the settings."""
        own = self._users.settings(request.get("user")) or {}
        settings = {**self._settings, **own}
        complete = {"home": settings["home"], **request}
        complete["cwd"] = os.path.join(settings["workdir"], request.get("cwd") or "")
        complete["env"] = {
            **self._settings.get("env", {}),
            **own.get("env", {}),
            **request.get("env", {}),
        }
        complete["user"] = request.get("user") or str(settings["uid"])
        for name in ("path", "target"):
            if name in request:
                complete[name] = os.path.join(settings["workdir"], request[name])
        return complete

    def _make(self, client: Client, number: int, request: Dict[str, Any]) -> Channel:
        kind = request["op"]
        if kind in self._makers:
            return self._makers[kind](client, number, request)
        if kind not in self._answers:
            raise StartError("unknown_op", "this guest does not know %r" % kind)
        channel = Channel(client, number, self.loop)
        channel.passive = kind in _UNNOTICED
        channel.say_done(self._answers[kind](client, request))
        return channel

    def _adopt(self, client: Client, number: int, request: Dict[str, Any]) -> Channel:
        self._activity.touch()
        return self._adrift.adopt(client, number, str(request["process"]))

    def _close(self, client: Client, channel: Channel, reset: bool) -> None:
        if channel.busy:
            self._activity.touch()
        ended = isinstance(channel, Program) and not channel.alive
        if not ended and self._adrift.leave(client, channel, _holds(client)):
            return
        client.channels.pop(channel.number, None)
        channel.abort(reset)

    # the end

    def _tick(self) -> None:
        self.loop.later(_TICK_S, self._tick)  # first: whatever fails below, leases must end
        self._starters.check()
        now = time.monotonic()
        self._thaw(now)
        for client in list(self._clients.values()):
            if now > client.deadline:
                self._leave(client, last=False)
        unheld = not self._clients and now > self._no_host_until
        expired = now > self._started + float(self._settings.get("lifetime_s") or "inf")
        idle = self._activity.left() == 0 and not any(
            isinstance(channel, Sleeper) for channel in self._channels()
        )
        if unheld or expired or idle:
            self.end("expired" if expired else "idle" if idle else "unheld")

    def _channels(self) -> List[Channel]:
        return [c for client in self._clients.values() for c in client.channels.values()]

    def _busy(self) -> bool:
        accepted = max((client.accepted_at for client in self._clients.values()), default=0.0)
        self._activity.last = max(self._activity.last, accepted)
        return (
            any(channel.busy for channel in self._channels())
            or self._adrift.busy
            or connected(self._settings.get("ports") or ())
        )

    def _thaw(self, now: float) -> None:
        """Time in which nothing could run counts against no lease, and is no idleness."""
        frozen, self._ticked = now - self._ticked, now
        if frozen > _FROZEN_S:
            self._activity.last += frozen
            self._no_host_until += frozen
            for client in self._clients.values():
                client.deadline += frozen
                client.heard += frozen

    def _held_until(self) -> float:
        return max([self._no_host_until] + [client.deadline for client in self._clients.values()])

    def end(self, why: str) -> None:
        """Kill all that was started, and end the sandbox."""
        for client in list(self._clients.values()):
            for channel in list(client.channels.values()):
                channel.abort()
            client.send(wire.pack_json(wire.BYE, 0, {"why": why}))
        self._adrift.abort()
        self._flush()
        self._end_sandbox(why)
        self.loop.stop()


def _holds(client: Client) -> bool:
    """Whether the host is in the middle of something."""
    return any(isinstance(channel, Hold) for channel in client.channels.values())


def _make_usable(path: str, uid: int) -> None:
    """Make a directory that the user can write to, as far as the guest may."""
    if os.path.isdir(path):
        return
    try:
        os.makedirs(path)
        if os.getuid() != uid:
            os.chmod(path, 0o777)  # the guest may not give it away, only open it
    except OSError:
        return


def end_machine() -> None:
    """End the sandbox by ending its first process, where the backend lets us."""
    try:
        os.kill(1, signal.SIGTERM)
    except OSError:
        return
