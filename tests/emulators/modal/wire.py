"""gRPC on one port: who answers which method, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from grpclib import GRPCError, Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.server import Server, Stream
from modal_proto import api_pb2 as api

from tests.emulators.faults import Fault, Faults
from tests.emulators.modal.messages import Message

if TYPE_CHECKING:
    from grpclib.const import Handler
    from grpclib.protocol import Connection, H2Protocol

Check = Callable[[str, Mapping[str, str | bytes], Message], None]
Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
Op = str | Callable[[Any], str]
Duplex = Stream[Message, Message]

_CODES = {
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    409: Status.ALREADY_EXISTS,
    429: Status.RESOURCE_EXHAUSTED,
    500: Status.INTERNAL,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class Work:
    """A method that does something, and does it to the end even if its caller goes away.

    Attributes:
        op: For faults and counts.
        answer: From the request to the reply.
        key: What makes two requests the same, so that a repeated one gets the first one's
            answer; without it, the client's idempotency key does.
    """

    op: Op
    answer: Callable[[Any], Awaitable[Message]]
    key: Callable[[Any], str] | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """A method that waits for something; it ends with its caller."""

    op: Op
    answer: Callable[[Any], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Output:
    """A method that answers with a stream of messages."""

    op: Op
    answer: Callable[[Any], AsyncGenerator[Message]]


@dataclass(frozen=True, slots=True)
class Upload:
    """A method that is sent a stream of messages."""

    op: Op
    answer: Callable[[Any, AsyncIterator[Any]], Awaitable[Message]]


Methods = Mapping[str, Work | Poll | Output | Upload]


class Wire:
    """All methods of all services, as grpclib wants them.

    Args:
        faults: What a test makes go wrong.
        check: Refuses requests without the right tokens.

    Attributes:
        keeps_answers: Whether a request that is repeated with its idempotency key is
            answered like the first one, and not done again.
    """

    def __init__(self, faults: Faults, check: Check) -> None:
        self.keeps_answers = True
        self._faults, self._check = faults, check
        self._services: list[tuple[type[Any], Methods]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answers: dict[str, asyncio.Task[Message]] = {}

    def add(self, base: type[Any], methods: Methods) -> None:
        """Serve what a generated base class declares, as far as it is emulated."""
        self._services.append((base, methods))

    def __mapping__(self) -> dict[str, Handler]:
        mapping: dict[str, Handler] = {}
        for base, methods in self._services:
            # Instantiated for its types alone; what it would do is replaced.
            names: frozenset[str] = base.__abstractmethods__
            blank = type(base.__name__, (base,), dict.fromkeys(names))()
            handlers = cast("dict[str, Handler]", cast("Any", blank).__mapping__())
            for path, handler in handlers.items():
                method = methods.get(path.rpartition("/")[2])
                mapping[path] = handler._replace(func=partial(self._serve, path, method))
        return mapping

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something in the background, until the emulator stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def aclose(self) -> None:
        """End what runs in the background."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who asked for it may be gone

    async def _serve(
        self, path: str, method: Work | Poll | Output | Upload | None, stream: Duplex
    ) -> None:
        name = path.rpartition("/")[2]
        if method is None:
            self._faults.take(name)
            raise GRPCError(Status.UNIMPLEMENTED, f"{name} is not emulated")
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{name} without a request")
        metadata: Mapping[str, str | bytes] = stream.metadata or {}
        self._check(path, metadata, request)
        op = method.op if isinstance(method.op, str) else method.op(request)
        fault = self._faults.take(op)
        await _strike_before(fault)
        if isinstance(method, Output):
            async with aclosing(method.answer(request)) as messages:
                await _send_all(messages, fault, stream)
            return
        if isinstance(method, Work):
            key = method.key(request) if method.key else str(metadata.get("x-idempotency-key", ""))
            reply = await self._do(f"{name} {key}" if key else "", method.answer(request))
        elif isinstance(method, Upload):
            reply = await method.answer(request, aiter(stream))
        else:
            reply = await method.answer(request)
        if fault is not None and fault.kind == "lose_answer":
            await cut(stream)
        await stream.send_message(reply)

    async def _do(self, key: str, work: Awaitable[Message]) -> Message:
        async def done() -> Message:
            return await work

        if not key or not self.keeps_answers:
            return await asyncio.shield(self.spawn(done()))
        before = self._answers.get(key)
        if before is None or (before.done() and _failed(before)):
            self._answers[key] = before = self.spawn(done())
        else:
            _never_awaited(work)
        return await asyncio.shield(before)


def _failed(task: asyncio.Task[Message]) -> bool:
    return task.cancelled() or task.exception() is not None


def _never_awaited(work: Awaitable[Message]) -> None:
    if isinstance(work, Coroutine):
        work.close()


async def _strike_before(fault: Fault | None) -> None:
    if fault is None:
        return
    if fault.kind == "delay":
        await asyncio.sleep(fault.seconds)
    if fault.kind == "refuse":
        raise refusal(fault)


def refusal(fault: Fault) -> GRPCError:
    """The status that a fault is answered with."""
    if isinstance(fault.status, str):
        status = Status[fault.status]
    else:
        status = _CODES.get(fault.status, Status.UNKNOWN)
    details: list[Message] = []
    if fault.retry_after is not None:
        details.append(api.RPCRetryPolicy(retry_after_secs=fault.retry_after))
    return GRPCError(status, f"refused, as the test wants it ({status.name})", details)


async def _send_all(messages: AsyncIterator[Message], fault: Fault | None, stream: Duplex) -> None:
    ends = fault if fault is not None and fault.kind in {"cut", "stall"} else None
    left = 0 if ends is None else ends.after
    async for message in messages:
        data: bytes = getattr(message, "data", b"")
        if ends is not None and len(data) >= left:
            if left:
                setattr(message, "data", data[:left])  # noqa: B010 - no message type of ours
                await stream.send_message(message)
            break
        left -= len(data)
        await stream.send_message(message)
    else:
        return
    if ends.kind == "cut":
        await cut(stream)
    await _for_ever()


async def cut(stream: Duplex) -> NoReturn:
    """Drop the connection of a request; its handlers are cancelled."""
    _abort(stream._stream.connection)  # pyright: ignore[reportPrivateUsage]
    await _for_ever()


async def _for_ever() -> NoReturn:
    while True:
        await asyncio.Event().wait()


class TrackedServer(Server):
    """A server that can drop its connections."""

    def __init__(self, wire: Wire) -> None:
        super().__init__([wire], status_details_codec=StatusDetails())
        self._protocols: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._protocols = [each for each in self._protocols if _is_open(each)]
        self._protocols.append(protocol)
        return protocol

    @property
    def port(self) -> int:
        """Where it listens."""
        assert isinstance(self._server, asyncio.Server)
        return int(self._server.sockets[0].getsockname()[1])

    def drop_connections(self) -> None:
        """Cut all of them."""
        for protocol in self._protocols:
            if _is_open(protocol):
                _abort(protocol.connection)

    async def aclose(self) -> None:
        """Stop to listen, drop the connections and wait for their handlers."""
        self.close()
        self.drop_connections()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self.wait_closed()


def _abort(connection: Connection) -> None:
    connection._transport.abort()  # pyright: ignore[reportPrivateUsage]


def _is_open(protocol: H2Protocol) -> bool:
    connection = getattr(protocol, "connection", None)
    return connection is None or not connection.is_closing()


class StatusDetails(StatusDetailsCodecBase):
    """The details of an error, as Modal packs them."""

    def encode(
        self, status: Status, message: str | None, details: Sequence[Message] | None
    ) -> bytes:
        packed: api.RPCStatus = api.RPCStatus(code=status.value, message=message or "")
        for detail in details or ():
            packed.details.add().Pack(cast("Any", detail), type_url_prefix="type.modal.com/")
        return bytes(packed.SerializeToString())

    def decode(self, status: Status, message: str | None, data: bytes) -> None:
        raise NotImplementedError
