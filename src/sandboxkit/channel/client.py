"""The connection with the guest: made, kept alive, taken up again, ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import anyio

from sandboxkit.channel.activity import noted
from sandboxkit.channel.greeting import NoGuestError, dial, ended, read_welcome
from sandboxkit.channel.remote import RemoteChannel, Sink
from sandboxkit.channel.term import Term
from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import (
    ConnectionLostError,
    InvalidSpecError,
    ProtocolError,
    SandboxClosedError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
)
from sandboxkit.guest import wire
from sandboxkit.happenings import Happenings
from sandboxkit.providers.base import ByteChannel, SandboxHandle

log = logging.getLogger(__name__)

_HELLO_S = 30.0
_CLOSE_S = 5.0
_RETRY_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # before each attempt, then the last again
_MAX_GUEST_CHANNELS = 1024
_SILENT_S = 30.0  # a guest answers every lease: after this, the connection is not to be trusted
_MOST_HELD_S = 7 * 86_400.0  # what a guest says of other hosts' leases is believed up to here
_LOSS = (SandboxError, OSError)

OnAccept = Callable[[RemoteChannel], None]


class GuestClient:
    """One host process's side of the channel, over as many connections as it takes.

    Args:
        handle: Where to spawn connectors.
        user: Who the guest runs as; None is the sandbox's own user.
        lease_s: Seconds that the guest waits for a lost host.
        settings: The sandbox's settings; the guest keeps those of its first host.

    Attributes:
        connected: Whether there is a connection now.
        failed: Set when there will be none any more; `failure` says why.
        welcome: What the guest has said of itself.
        term: When the sandbox's life-time ends.
        begun: How many channels were opened here that count as activity.
        on_use: Called when a channel is opened, which then waits for the next connection.
        happenings: What happens to the connection, for each `Sandbox` that stands on it.
    """

    def __init__(
        self,
        handle: SandboxHandle,
        *,
        user: str | None,
        lease_s: float,
        settings: Mapping[str, Any],
    ) -> None:
        self._handle = handle
        self._user = user
        self._lease_s = lease_s
        self._settings = settings
        self._token = secrets.token_hex(24)
        self._numbers = itertools.count(1)
        self._channels: dict[int, RemoteChannel] = {}
        self._listeners: dict[int, OnAccept] = {}
        self._accepted = 0
        self._stream: ByteChannel | None = None
        self._decoder: wire.Decoder = wire.Decoder()
        self._out: list[bytes] = []
        self._wake = asyncio.Event()
        self._heard = 0.0
        self._task: asyncio.Task[None] | None = None
        self._failure: SandboxError | None = None
        self._leaving = self._suspended = False
        self._echoed = asyncio.Event()  # the guest has answered a LEASE
        self._held_s = lease_s
        self.failed = asyncio.Event()
        self._left = asyncio.Event()  # the guest has heard our BYE, or cannot any more
        self.connected = False
        self.welcome: Mapping[str, Any] = {}
        self.term = Term()
        self.begun = 0
        self.on_use: Callable[[], None] | None = None
        self.happenings = Happenings()

    async def open(self) -> None:
        """Make the first connection.

        Raises:
            NoGuestError: The image cannot run the guest.
            SandboxError: The connection failed.
        """
        await self._connect()
        self._task = asyncio.create_task(self._serve(), name="sandboxkit-channel")

    @property
    def failure(self) -> SandboxError | None:
        """Why nothing more can be done with the sandbox; None while that is not so."""
        return self._failure

    @property
    def env(self) -> Mapping[str, str]:
        """The variables of the sandbox, as this host has set them."""
        return self._settings.get("env") or {}

    @property
    def held_s(self) -> float:
        """Seconds for which the sandbox shall live from now on, if nobody says more."""
        return max(self._lease_s, self._held_s)

    async def suspend(self, *, keep_s: float) -> None:
        """Let the connection go, and make no other until `resume`; nothing is lost.

        Args:
            keep_s: Seconds for which the guest shall wait, while it runs.
        """
        self._echoed.clear()
        self.send(wire.pack_json(wire.LEASE, 0, {"lease_s": keep_s}))
        with anyio.move_on_after(_CLOSE_S):
            await self._echoed.wait()
        self._suspended = True
        await cancel_and_wait(self._task)
        await self._disconnect()

    async def resume(self) -> None:
        """Connect again after `suspend`.

        Raises:
            SandboxError: It was not possible, and will not be.
        """
        self._suspended = False
        self._left.clear()
        if self._failure is None and await self._reconnect():
            self._task = asyncio.create_task(self._serve(), name="sandboxkit-channel")
        if self._failure is not None:
            raise self._failure

    async def change(self, settings: Mapping[str, Any]) -> None:
        """Give the guest other settings; what lasts so long is counted from now on.

        Args:
            settings: `env`, whose variables are laid over those that there are,
                `lifetime_s` and `idle_timeout_s`.

        Raises:
            InvalidSpecError: They are too long.
            SandboxError: The sandbox, or the connection, was lost.
        """
        channel = self.channel({"op": "settings", **settings})
        env = {**self._settings.get("env", {}), **settings.get("env", {})}
        self._settings = {**self._settings, **settings, "env": env}
        try:
            await channel.finished()
            if channel.error is not None:
                channel.raise_error()
        finally:
            channel.close()

    # channels

    def process_id(self, channel: RemoteChannel) -> str:
        """The name of a channel's process for every host."""
        return f"{self._token[:16]}-{channel.number}"

    def channel(
        self,
        request: Mapping[str, Any],
        *,
        inputs: tuple[int, ...] = (),
        outputs: tuple[int, ...] = (),
        sink: Sink | None = None,
        on_accept: OnAccept | None = None,
    ) -> RemoteChannel:
        """Open a channel. If there is no connection now, it is opened with the next.

        Raises:
            SandboxError: The client has been closed, or has failed for good.
        """
        if self._failure is not None:
            raise self._failure
        request = noted(request)
        number = next(self._numbers)
        opening = wire.pack_json(wire.OPEN, number, request)
        if len(opening) > wire.MAX_FRAME:
            raise InvalidSpecError(
                f"the request has {len(opening)} bytes, more than the {wire.MAX_FRAME} that "
                "the guest takes at once; pass long arguments by stdin or a file"
            )
        channel = RemoteChannel(self, number, request, inputs=inputs, outputs=outputs, sink=sink)
        self._channels[number] = channel
        if on_accept is not None:
            self._listeners[number] = on_accept
        self.begun += not request.get("passive")
        if self.on_use is not None:
            self.on_use()
        elif self.connected:
            self.send(opening)
        return channel

    def forget(self, channel: RemoteChannel, *, reset: bool) -> None:
        """Called by a channel that is closed."""
        self._channels.pop(channel.number, None)
        self._listeners.pop(channel.number, None)
        if self.connected:
            self.send(wire.pack(wire.CLOSE, channel.number, b"r" if reset else b""))

    def send(self, *buffers: bytes) -> None:
        """Queue frames for the present connection."""
        self._out.extend(buffers)
        self._wake.set()

    # one connection

    async def _connect(self) -> None:
        try:
            with anyio.fail_after(_HELLO_S):
                stream, rest = await dial(self._handle, self._user)
                try:
                    await self._hello(stream, rest)
                except BaseException:
                    self.connected, self._stream = False, None
                    await stream.aclose()
                    raise
        except TimeoutError as error:
            raise ConnectionLostError(
                f"the guest did not answer within {_HELLO_S:g} s", retryable=True
            ) from error
        except (wire.WireError, ValueError, TypeError) as error:
            raise ProtocolError(f"the guest broke the protocol: {error!r}") from error

    async def _hello(self, stream: ByteChannel, rest: bytes) -> None:
        text = stream.encoding == "text_lines"
        self._decoder = wire.LineDecoder() if text else wire.Decoder()
        hello = {
            "protocol": wire.PROTOCOL,
            "client": self._token,
            "name": f"{socket.gethostname()}, process {os.getpid()}",
            "lease_s": self._lease_s,
            "settings": dict(self._settings),
            "channels": {str(n): channel.progress() for n, channel in self._channels.items()},
            "accepted": self._accepted,
        }
        frame = wire.pack_json(wire.HELLO, 0, hello)
        if len(frame) > wire.MAX_FRAME:
            raise InvalidSpecError(
                f"the environment of the sandbox is too long: {len(frame)} bytes of settings, "
                f"and the guest takes {wire.MAX_FRAME}"
            )
        await stream.send(wire.to_lines(frame) if text else frame)
        frames = self._decoder.feed(rest)
        while not frames:
            frames = self._decoder.feed(await _stdout(stream))
        welcome = read_welcome(frames[0])
        self._stream, self.connected, self._heard = stream, True, time.monotonic()
        self._out = []
        self.term.told(welcome)
        self._resume(welcome)
        for later in frames[1:]:
            self._on_frame(later)

    def _resume(self, welcome: Mapping[str, Any]) -> None:
        first = not self.welcome
        same = welcome.get("instance") == self.welcome.get("instance")
        self.welcome = welcome
        if first:
            return
        if not (same and welcome.get("known")):
            error = ConnectionLostError(
                "the guest no longer knows this host: what ran has been ended", op="reconnect"
            )
            self._fail_channels(error)
            self._accepted = 0
            return
        known = _channels(welcome)
        for number in known.keys() - self._channels.keys():
            if number <= max(self._accepted, wire.GUEST_CHANNELS):
                # Closed here between our HELLO and this answer to it.
                self.send(wire.pack(wire.CLOSE, number))
        for number, channel in list(self._channels.items()):
            received = known.get(number)
            if received is None and channel.request is None:
                channel.fail(ConnectionLostError("the connection was ended in the sandbox"))
            else:
                channel.resume(received)

    async def _serve(self) -> None:
        """Read, write and keep alive; on loss, connect again until the lease is over."""
        try:
            await self._serve_connections()
        except asyncio.CancelledError:
            if not self._leaving and not self._suspended:  # the loop ends, and all tasks with it
                self.fail(ConnectionLostError("the event loop is ending", retryable=False))
            raise
        except Exception as error:  # whatever it is, nobody may wait for ever
            log.exception("the channel failed")
            self.fail(ProtocolError(f"the channel failed: {error!r}"))
        finally:
            self._left.set()

    async def _serve_connections(self) -> None:
        while True:
            lost = ""
            try:
                stream = self._required_stream()
                async with asyncio.TaskGroup() as tasks:
                    for part in (self._read(stream), self._write(stream), self._keep_alive()):
                        tasks.create_task(part)
            except ExceptionGroup as group:
                reason = group.exceptions[0]
                lost = str(reason)
                log.debug("the connection with the guest was lost: %s", reason)
                if isinstance(reason, ProtocolError) or not isinstance(reason, _LOSS):
                    self.fail(ProtocolError(f"the guest broke the protocol: {reason!r}"))
                    return
            finally:
                await self._disconnect()
            # A loss at the same moment hides the cancellation by `aclose` from the group.
            if self._leaving or self._suspended or self._failure is not None:
                return
            self.happenings.tell("connection_lost", lost)
            if not await self._reconnect():
                return
            self.happenings.tell("reconnected")

    async def _reconnect(self) -> bool:
        deadline = time.monotonic() + self._lease_s
        for attempt in itertools.count():
            await anyio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            try:
                await self._connect()
            except (SandboxDiedError, SandboxNotFoundError, ProtocolError) as error:
                self.fail(error)
                return False
            except (SandboxError, OSError) as error:
                if isinstance(error, NoGuestError) and error.stream is not None:
                    await error.stream.aclose()
                if time.monotonic() > deadline:
                    self.fail(
                        ConnectionLostError(
                            f"the connection into the sandbox was lost, and could not be taken "
                            f"up again within its lease of {self._lease_s:g} s: {error}",
                            retryable=True,
                        )
                    )
                    return False
            else:
                return True
        return False

    async def _read(self, stream: ByteChannel) -> None:
        while True:
            data = await _stdout(stream)
            self._heard = time.monotonic()
            for frame in self._decoder.feed(data):
                self._on_frame(frame)

    async def _write(self, stream: ByteChannel) -> None:
        text = stream.encoding == "text_lines"
        while True:
            await self._wake.wait()
            self._wake.clear()
            data, self._out = b"".join(self._out), []
            if data:
                await stream.send(wire.to_lines(data) if text else data)

    async def _keep_alive(self) -> None:
        """Renew the lease; a connection that has been silent for half of it, or 30 s, is lost."""
        silent_s = min(self._lease_s / 2, _SILENT_S)
        every = silent_s / 3
        while True:
            await anyio.sleep(every)
            if time.monotonic() - self._heard > silent_s:
                raise ConnectionLostError("the guest has gone silent")
            self.send(wire.pack_json(wire.LEASE, 0, {"lease_s": self._lease_s}))

    def _on_frame(self, frame: wire.Frame) -> None:
        if frame.kind == wire.OPEN:
            self._on_open(frame)
            return
        if frame.kind == wire.BYE:
            self._left.set()
            why = frame.json().get("why")
            if isinstance(why, str):
                self.fail(ended(why))
            return
        if frame.kind == wire.LEASE:
            said = frame.json()
            self.term.told(said)
            held_s = float(said.get("held_s", 0.0))
            self._held_s = held_s if 0 <= held_s <= _MOST_HELD_S else 0.0
            self._echoed.set()
            return
        channel = self._channels.get(frame.channel)
        if channel is not None:
            channel.on_frame(frame)

    def _on_open(self, frame: wire.Frame) -> None:
        """The guest has accepted a connection for one of our listeners."""
        number = frame.channel
        if number in self._channels:
            return
        listener = frame.json().get("listener")
        on_accept = self._listeners.get(listener) if isinstance(listener, int) else None
        self._accepted = max(self._accepted, number)
        open_now = sum(1 for n in self._channels if n > wire.GUEST_CHANNELS)
        if number <= wire.GUEST_CHANNELS or on_accept is None or open_now >= _MAX_GUEST_CHANNELS:
            self.send(wire.pack(wire.CLOSE, number, b"r"))
            return
        channel = RemoteChannel(self, number, None, inputs=(wire.STDIN,), outputs=(wire.STDOUT,))
        self._channels[number] = channel
        on_accept(channel)

    # the end

    async def _disconnect(self) -> None:
        self.connected = False
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception), anyio.move_on_after(_CLOSE_S):
                await stream.aclose()

    def fail(self, error: SandboxError) -> None:
        """Nothing more can be done with this sandbox: tell all who wait."""
        if self._failure is None:
            self._failure = error
            self.failed.set()
            self._fail_channels(error)
            if not self._leaving:
                self.happenings.tell("ended", error.message)

    def _fail_channels(self, error: SandboxError) -> None:
        for channel in list(self._channels.values()):
            channel.fail(error)
            self._channels.pop(channel.number, None)
        self._listeners.clear()

    async def aclose(self, *, say_bye: bool, keep_s: float | None = None) -> None:
        """Leave: what is not detached ends. Idempotent, bounded.

        Args:
            say_bye: Whether the guest is told; not needed before a destroy.
            keep_s: Seconds that the sandbox shall live on without any host.
        """
        self._leaving = True
        for channel in self._channels.values():
            channel.settle()
        if keep_s is not None:
            self.send(wire.pack_json(wire.LEASE, 0, {"lease_s": keep_s}))
        if say_bye and self.connected and self._failure is None:
            self.send(wire.pack_json(wire.BYE, 0, {}))
            with anyio.move_on_after(_CLOSE_S):
                await self._left.wait()
        self.fail(SandboxClosedError("the sandbox has been closed"))
        await cancel_and_wait(self._task)
        await self._disconnect()

    def _required_stream(self) -> ByteChannel:
        if self._stream is None:
            raise ConnectionLostError("there is no connection with the guest")
        return self._stream


async def _stdout(stream: ByteChannel) -> bytes:
    while True:
        output = await stream.receive()
        if output is None:
            raise ConnectionLostError("the connection with the guest has ended")
        if output.fd == 1:
            return output.data
        log.debug("the guest wrote to stderr: %r", output.data[:500])


def _channels(welcome: Mapping[str, Any]) -> dict[int, Any]:
    """The channels that the guest still has, and how far it has received each."""
    found: object = welcome.get("channels") or {}
    if not isinstance(found, dict):
        raise ProtocolError("the guest sent channels that are not a JSON object")
    return {int(number): offsets for number, offsets in cast("dict[str, Any]", found).items()}
