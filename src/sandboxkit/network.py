"""The network of a sandbox: its policy, and the way out through the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.fallback import Fallback
from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import SandboxClosedError, UnsupportedError
from sandboxkit.gateway import environment
from sandboxkit.gateway.secrets import Secret, check_secrets
from sandboxkit.gateway.settings import Gateway, check_installed
from sandboxkit.listeners import Listeners
from sandboxkit.outlet import Outlet, open_outlet
from sandboxkit.providers.info import Difference, Effective, SandboxInfo
from sandboxkit.spec import NETWORK_LABEL, NetworkPolicy

if TYPE_CHECKING:
    from sandboxkit.gateway.decisions import Decision
    from sandboxkit.gateway.egress import Egress, Traffic
    from sandboxkit.gateway.way import Way

log = logging.getLogger(__name__)

_CLOSE_S: Final = 20.0
_WAITING: Final = 1000  # refusals that wait for whoever iterates; then the oldest is dropped


@dataclass(frozen=True, slots=True)
class Outside:
    """What a caller gives for the gateway beside the spec.

    It is no part of the spec: that is a value, to be printed, dumped and kept in labels.

    Attributes:
        secrets: Values that never enter the sandbox.
        gateway: How the world is reached; None is this machine's own network.
        policy: For `attach`: what this host wishes; None is what the backend has.
    """

    secrets: Sequence[Secret] = ()
    gateway: Gateway | None = None
    policy: NetworkPolicy | None = None

    def check(self, policy: NetworkPolicy, env: Mapping[str, str]) -> None:
        """Check what was given, before anything is created.

        Raises:
            InvalidSpecError: See `check_secrets`.
            ImportError: A package is missing; it says how to install it.
        """
        check_secrets(self.secrets, policy, env)
        check_installed(policy, self.secrets)


class Network:
    """The network of one sandbox, as `sandbox.network`.

    With a policy of `NetworkPolicy.allow`, an `Egress` on this machine is the only way
    out, and the sandbox reaches it on its loopback through the channel. When this host lets
    go of the sandbox, or dies, connections to it wait there for the next host that keeps a list.

    Args:
        policy: What is in force at the beginning.
        channel: The way into the sandbox.
        outside: Secrets, and how the world is reached.
        env: Variables of the sandbox that are the caller's own: they win over ours.
        owner: Who may write where the sandbox's user cannot; None if nobody.
    """

    def __init__(
        self,
        policy: NetworkPolicy,
        channel: GuestClient | Fallback,
        outside: Outside,
        *,
        env: Mapping[str, str],
        owner: str | None,
    ) -> None:
        self._policy = policy
        self._channel = channel
        self._outside = outside
        self._theirs = env
        self._owner = owner
        self._ours: dict[str, str] = {}
        self._outlet: Outlet | None = None
        self._changing = asyncio.Lock()
        self._closed = False
        self._watch: asyncio.Task[None] | None = None
        self._listeners: Listeners[Decision] = Listeners("sandbox.network")
        self._waiting: set[asyncio.Queue[Decision | None]] = set()

    def __repr__(self) -> str:
        return f"<Network {self._policy.mode} {list(self._policy.hosts)}>"

    @property
    def _egress(self) -> Egress | None:
        return None if self._outlet is None else self._outlet.egress

    @property
    def policy(self) -> NetworkPolicy:
        """The policy in force."""
        return self._policy

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The last 1,000 decisions of the gateway, oldest first; empty where it has no part."""
        return () if self._egress is None else self._egress.decisions

    @property
    def traffic(self) -> Traffic | None:
        """What has gone through the gateway; None where it has no part."""
        return None if self._egress is None else self._egress.traffic

    @property
    def ports(self) -> tuple[int, int] | None:
        """Where the way out listens: on this machine, and in the sandbox; None where it is none."""
        if self._outlet is None or self._closed:
            return None
        return self._outlet.egress.port, self._outlet.port

    def hidden(self) -> dict[str, str]:
        """Values that no log may show, by name: those of secrets, and the way out's passwords."""
        found = {each.name: each.last for each in self._outside.secrets if each.last is not None}
        if self._egress is not None:
            found["token"] = self._egress.token
            earlier = sorted(self._egress.tokens - {self._egress.token})
            found |= {f"token-{at}": token for at, token in enumerate(earlier)}
        return found

    @property
    def env(self) -> Mapping[str, str]:
        """The variables that every command gets besides its own, which win.

        Where the proxy is, its token, which is worth something in this sandbox alone, the
        placeholders of secrets, and where the certificates are that are to be trusted.
        """
        return dict(self._ours)

    # changes

    async def set(self, policy: NetworkPolicy) -> None:
        """Put another policy in force, now.

        Connections to hosts that it does not allow are ended, also in the middle of an
        answer. Commands that were started while there was no list at all do not know the
        proxy: begin with `NetworkPolicy.allow([])` what shall be changed later.

        Raises:
            UnsupportedError: The backend's own network, `open` or `native`, is there or not
                there from the creation on: no backend of ours takes it away, or gives it.
            SandboxClosedError: The sandbox has been closed.
        """
        async with self._changing:
            if self._closed:
                raise SandboxClosedError("the sandbox has been closed")
            if policy == self._policy:
                return
            check_change(self._policy, policy)
            if self._egress is not None:
                self._egress.change(policy)
            else:
                await self._begin(policy)
            self._policy = policy

    async def allow(self, *hosts: str) -> None:
        """Allow hosts besides those that are allowed; entries as in `NetworkPolicy.allow`.

        Raises:
            InvalidSpecError: An entry is no such host; it is named.
            UnsupportedError: See `set`.
        """
        await self.set(
            NetworkPolicy.allow((*self._policy.hosts, *hosts), native=self._policy.native)
        )

    async def hand_over(
        self, policy: NetworkPolicy, outside: Outside, env: Mapping[str, str]
    ) -> None:
        """Give a network that has had no way out yet to an owner, with the owner's values.

        Raises what `set` raises, and what `open` does.
        """
        self._outside, self._theirs = outside, env
        await self.set(policy)

    # events

    def listen(self, listener: Callable[[Decision], None]) -> Callable[[], None]:
        """Have each decision told to a function, on the event loop, as it is made.

        What it raises is logged.

        Returns:
            What ends it.
        """
        return self._listeners.add(listener)

    @contextlib.asynccontextmanager
    async def refusals(self) -> AsyncGenerator[AsyncIterator[Decision]]:
        """What is refused from now on: `async with ... as refusals: async for one in refusals`.

        The iteration ends with the sandbox. The oldest are dropped where more than 1,000 wait.
        """
        queue: asyncio.Queue[Decision | None] = asyncio.Queue()
        self._waiting.add(queue)
        if self._closed:
            queue.put_nowait(None)
        try:
            yield _each(queue)
        finally:
            self._waiting.discard(queue)

    def _tell(self, decision: Decision) -> None:
        for queue in self._waiting if not decision.allowed else ():
            if queue.qsize() >= _WAITING:
                queue.get_nowait()
            queue.put_nowait(decision)
        self._listeners.tell(decision)

    # what the sandbox asks of it

    def added_to(self, env: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """A command's own variables with ours beside them."""
        return environment.added(self._ours, env) if self._ours else env

    async def open(self) -> None:
        """Make the way out, if the policy has one.

        Raises:
            UnsupportedError: The image has no Python, and so no guest; or its programs cannot
                be made to trust the certificate that secrets need.
            ImportError: A package is missing; it says how to install it.
        """
        if self._policy.by_gateway:
            await self._begin(self._policy)

    async def inherit(self) -> None:
        """Serve the programs, too, that know the way out of a host that is gone.

        Raises:
            SandboxError: The sandbox has ended.
        """
        async with self._changing:
            if self._outlet is not None and not self._closed:
                await self._outlet.inherit()

    async def _begin(self, policy: NetworkPolicy) -> None:
        if not isinstance(self._channel, GuestClient):
            raise no_way_out()

        def make(left: Way | None) -> Egress:
            gateway = self._outside.gateway or Gateway()
            return gateway.egress(policy, self._outside.secrets, self._tell, left)

        self._outlet = await open_outlet(self._channel, make, self._owner)
        self._ours = environment.without(self._outlet.env, self._theirs)
        self._watch = asyncio.create_task(self._end_with(self._channel), name="sandboxkit-egress")

    async def _end_with(self, client: GuestClient) -> None:
        await client.failed.wait()
        await run_to_end(self._end(), deadline_s=_CLOSE_S)

    async def _end(self) -> None:
        async with self._changing:
            self._closed = True
            for queue in self._waiting:
                queue.put_nowait(None)
            if self._outlet is not None:
                await self._outlet.aclose()

    async def aclose(self) -> None:
        """Close the way out; the sandbox has none after that. Idempotent, bounded."""
        await cancel_and_wait(self._watch)
        await run_to_end(self._end(), deadline_s=_CLOSE_S)

    def shown(self, info: SandboxInfo) -> SandboxInfo:
        """The info with the policy that is in force by the gateway."""
        if self._egress is None or info.effective.network != "none":
            return info
        return replace(info, effective=replace(info.effective, network=self._policy.mode))


async def opened(
    policy: NetworkPolicy,
    channel: GuestClient | Fallback,
    outside: Outside,
    undo: contextlib.AsyncExitStack,
    *,
    env: Mapping[str, str],
    owner: str | None,
) -> Network:
    """A network that is ready for use; see `Network` and `Network.open`."""
    network = Network(policy, channel, outside, env=env, owner=owner)
    undo.push_async_callback(network.aclose)
    await network.open()
    return network


def check_change(now: NetworkPolicy, wanted: NetworkPolicy) -> None:
    """Refuse a change of the network that no backend makes while a sandbox runs.

    Raises:
        UnsupportedError: See `Network.set`.
    """
    if wanted == now:
        return
    for one in (now, wanted):
        if one.mode == "open" or one.native:
            raise UnsupportedError(
                f"the network cannot be changed from {_named(now)} to {_named(wanted)} while the "
                f"sandbox runs: {_named(one)} is the backend's own. Create another sandbox; one "
                "with NetworkPolicy.allow([]) can be given hosts, and have them taken away, at "
                "any time",
                op="network.set",
            )


def begun_with(info: SandboxInfo, outside: Outside) -> tuple[NetworkPolicy, tuple[Difference, ...]]:
    """The policy of a sandbox that is taken up, and where that is not what it was.

    A list of hosts lives with the host that keeps it: another host gives its own, or none.

    Raises:
        UnsupportedError: The backend's network is there, and cannot be taken away; or it is
            not there, and cannot be given.
        InvalidSpecError: See `check_secrets`.
    """
    there = _backend_has(info.effective)
    wanted = outside.policy
    policy = wanted if wanted is not None else there
    if policy.native or (policy.mode != there.mode and "open" in {policy.mode, there.mode}):
        raise UnsupportedError(
            f"sandbox {info.id} has network={there.mode!r} from its backend since it was created, "
            f"and cannot be given {_named(policy)}",
            op="attach",
            provider=info.provider,
            sandbox_id=info.id,
        )
    outside.check(policy, {})
    if wanted is not None or info.labels.get(NETWORK_LABEL) != "allow":
        return policy, ()
    reason = "its list of hosts was kept by the host that left it: attach(..., network=...)"
    return policy, (Difference("network", "allow", "none", reason),)


def _backend_has(effective: Effective) -> NetworkPolicy:
    return NetworkPolicy.none() if effective.network == "none" else NetworkPolicy.open()


def no_way_out() -> UnsupportedError:
    """The error where there is no guest."""
    return UnsupportedError(
        "a list of allowed hosts needs Python 3.8 or later in the image, and this one has none: "
        "use another image, or add python3 to it",
        code="no_guest",
    )


def _named(policy: NetworkPolicy) -> str:
    return f"{policy.mode!r} (native)" if policy.native else repr(policy.mode)


async def _each(queue: asyncio.Queue[Decision | None]) -> AsyncGenerator[Decision]:
    while (decision := await queue.get()) is not None:
        yield decision
