"""The egress proxy of one session: the only way out of a sandbox that has a list of hosts."""

from __future__ import annotations

import asyncio
import secrets as random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.gateway.connection import Connection
from sandboxkit.gateway.decisions import Decision, Log
from sandboxkit.gateway.gate import Gate
from sandboxkit.gateway.limits import Limits
from sandboxkit.gateway.policy import Rules
from sandboxkit.gateway.refusals import Refusal
from sandboxkit.gateway.resolver import Dial, Resolve, Resolver
from sandboxkit.gateway.termination import Termination
from sandboxkit.loopback import close, listen
from sandboxkit.spec import NetworkPolicy

if TYPE_CHECKING:
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.way import Way

_CLOSE_S = 10.0
_BUSY = Refusal(503, "too_many_connections", "this session has too many connections open")


@dataclass(slots=True)
class Traffic:
    """What has gone through the proxy, TLS and HTTP heads included.

    Attributes:
        connections: Connections taken.
        refused: Connections turned away, because there were too many.
        received: Bytes from the sandbox.
        sent: Bytes to the sandbox.
    """

    connections: int = 0
    refused: int = 0
    received: int = 0
    sent: int = 0

    def moved(self, received: int, sent: int) -> None:
        """Count bytes."""
        self.received += received
        self.sent += sent


class Egress:
    """A forward proxy on 127.0.0.1 for one session, as an async context manager.

    It takes `CONNECT host:port` and requests for `http://` URLs, with the session's
    token: `http://sandboxkit:TOKEN@127.0.0.1:PORT`. A host is brought into its canonical
    form once, matched once and resolved once, every address is checked, and a checked
    address is what is connected to. Refusals are answered 403 with the reason.

    Args:
        policy: What is allowed.
        resolve: Resolves names, in place of the system's resolver: from a canonical name
            and a port to addresses, which are checked all the same.
        dial: Connects, in place of TCP: from an address that has passed the check, and a
            port, to streams. With it a test can lead a public address to loopback.
        on_decision: Called with each `Decision`, on the event loop.
        secrets: Values that go to their hosts only, in place of a placeholder.
        trust: Whom the gateway trusts where it speaks TLS itself; the system's
            certificates by default.
        limits: The bounds.
        left: The way out of an earlier host, which this one takes the place of.

    Attributes:
        token: The password for this proxy; it is worth nothing after the block.
        traffic: What has gone through.
    """

    def __init__(
        self,
        policy: NetworkPolicy,
        *,
        resolve: Resolve | None = None,
        dial: Dial | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        secrets: Sequence[Secret] = (),
        trust: SSLContext | None = None,
        limits: Limits | None = None,
        left: Way | None = None,
    ) -> None:
        limits = limits or Limits()
        self.token = random.token_urlsafe(24) if left is None else left.token
        self._tokens = {self.token}
        self.traffic = Traffic()
        self._limits = limits
        self._log = Log(limits.decisions, on_decision)
        self._resolver = Resolver(limits, resolve, dial)
        self._gate = Gate(Rules(policy), self._resolver, self._log, limits)
        known = {} if left is None else left.placeholders
        self._termination = Termination(secrets, trust, limits, known) if secrets else None
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._termination is not None:
            await self._termination.prepare()
        self._server = await listen(self._accept, limit=self._limits.head_bytes, backlog=1024)
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            close(self._server)
            self._server = None
        self._resolver.close()
        ending = cancel_and_wait(self._sweeper, *self._connections.values())
        await run_to_end(ending, deadline_s=_CLOSE_S)

    @property
    def port(self) -> int:
        """The port on 127.0.0.1.

        Raises:
            RuntimeError: The block has not been entered.
        """
        if self._server is None:
            raise RuntimeError("the egress proxy listens inside of its `async with` only")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def tokens(self) -> frozenset[str]:
        """The passwords for this proxy: `token`, and those of the hosts before this one."""
        return frozenset(self._tokens)

    @property
    def policy(self) -> NetworkPolicy:
        """The policy in force."""
        return self._gate.rules.policy

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The last decisions, oldest first."""
        return tuple(self._log.kept)

    @property
    def placeholders(self) -> dict[str, str]:
        """What the sandbox has in place of each secret's value, by the secret's name."""
        return {} if self._termination is None else self._termination.placeholders

    @property
    def ca_pem(self) -> bytes | None:
        """The certificate that the sandbox must trust; None where there are no secrets."""
        return None if self._termination is None else self._termination.ca_pem

    def admit(self, way: Way) -> None:
        """Let those in, too, who know the way out of an earlier host."""
        self._tokens.add(way.token)
        if self._termination is not None:
            self._termination.admit(way.placeholders)

    def change(self, policy: NetworkPolicy) -> None:
        """Put another policy in force.

        All that is asked from now on follows it. Connections to hosts that it does not
        allow are cut, also in the middle of an answer.
        """
        rules = self._gate.rules = Rules(policy)
        for connection, task in self._connections.items():
            target = connection.target
            if target is not None and rules.refusal(target.host, target.port):
                self._end(connection, task, "the policy was changed: the connection is cut")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # closed while this client was being accepted
            writer.transport.abort()
            return
        if len(self._connections) >= self._limits.connections:
            self.traffic.refused += 1
            self._log.add("", "", 0, allowed=False, reason=_BUSY.message)
            writer.write(_BUSY.answer())
            writer.close()
            return
        self.traffic.connections += 1
        connection = Connection(
            self._gate, self._tokens, (reader, writer), self.traffic.moved, self._termination
        )
        task = asyncio.create_task(connection.run())
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._connections.pop(connection))
        task.add_done_callback(lambda _: writer.close())  # cancelled before it began, too

    async def _sweep(self) -> None:
        """End the connections on which nothing has moved for too long."""
        loop, idle_s = asyncio.get_running_loop(), self._limits.idle_s
        while True:
            await asyncio.sleep(idle_s / 4)
            for connection, task in self._connections.items():
                if loop.time() - connection.active > idle_s:
                    self._end(connection, task, f"nothing has moved for {idle_s:g} s: it is cut")

    def _end(self, connection: Connection, task: asyncio.Task[None], reason: str) -> None:
        target = connection.target
        host, port = (target.host, target.port) if target is not None else ("", 0)
        self._log.add("", host, port, allowed=False, reason=reason)
        task.cancel()
