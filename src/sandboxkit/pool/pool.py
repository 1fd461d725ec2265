"""`Pool`: a stock of machines that are ready, kept at its size, each claimed once."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import anyio

from sandboxkit.admission import admit
from sandboxkit.agents.registry import agents
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import (
    CapacityError,
    InvalidSpecError,
    OperationTimeoutError,
    SandboxClosedError,
)
from sandboxkit.lifecycle import Opening, choose
from sandboxkit.limits import WAIT_S
from sandboxkit.network import Outside, check_change
from sandboxkit.pool.machine import Content, DeadMachineError, Machine, Owner, in_advance
from sandboxkit.pool.supply import Supply, checked_size
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import NetworkPolicy, SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.agents.base import Agent
    from sandboxkit.failover import OneProvider
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.settings import Gateway
    from sandboxkit.progress import Listener

log = logging.getLogger(__name__)

_CLOSE_S: Final = 180.0


class Pool:
    """Machines that are ready before they are asked for, for an `async with` block.

    ```python
    async with sk.Pool("docker", size=4, image="python:3.12-slim") as pool:
        async with pool.claim(env={"CUSTOMER": "17"}) as sandbox:
            await sandbox.exec(["python3", "-V"])
        async with sk.Session(pool) as session: ...
    ```

    A machine goes to one owner, is destroyed at the end, and is never used again: nothing of
    one owner is seen by another. What is claimed is made anew at once. A machine that dies
    while it waits is replaced, and so is one that grows too old, before it is. Entering does
    not wait for the machines (`filled` does); leaving destroys all of them, also those that
    are claimed. One event loop uses it.

    Args:
        provider: The backend, by name or as an object; or a list of them, as for
            `Sandbox.create`.
        size: How many are kept ready. With 0, a claim has its machine made.
        spec: What the machines shall be.
        agent: The agent that sessions on them will run: they are made with what it needs.
        max_age_s: Seconds after which a machine that nobody has claimed is destroyed; another
            is made in its place after 0.7 to 0.9 of it.
        wait_s: Seconds that a claim waits for a machine, and a creation for the limits of
            the account.
        gateway: How the gateway reaches the world, as for `Sandbox.create`.
        on_failure: Called with each error of the backend, on the event loop.
        on_progress: Called with each step of a slow creation.
        **fields: Single fields of the spec, as for `Sandbox.create`.

    Attributes:
        spec: What the machines are.

    Raises:
        InvalidSpecError: A value is wrong.
    """

    def __init__(
        self,
        provider: OneProvider | Sequence[OneProvider],
        *,
        size: int,
        spec: SandboxSpec | None = None,
        agent: str | Agent | None = None,
        max_age_s: float = 900.0,
        wait_s: float = WAIT_S,
        gateway: Gateway | None = None,
        on_failure: Callable[[Exception], None] | None = None,
        on_progress: Listener | None = None,
        **fields: Any,
    ) -> None:
        if not 0 < max_age_s < float("inf") or not wait_s >= 0:
            raise InvalidSpecError("max_age_s must be more than 0 seconds, and wait_s 0 or more")
        if isinstance(provider, str | SandboxProvider):
            provider = [provider]
        self._chosen: list[OneProvider] = list(provider)
        if not self._chosen:
            raise InvalidSpecError("the list of providers is empty: name at least one")
        self.spec = SandboxSpec.build(spec, **fields)
        if self.spec.on_idle != "destroy":
            raise InvalidSpecError(
                f"on_idle={self.spec.on_idle!r} is what a session does with a machine of its own, "
                "which it can make again; one of a pool ends when it is idle"
            )
        self._agent = agents.make(agent) if isinstance(agent, str) else agent
        self._max_age_s, self._wait_s = max_age_s, wait_s
        self._gateway = gateway
        self._on_progress = on_progress
        self._providers: list[SandboxProvider] = []
        self._opened = contextlib.AsyncExitStack()
        self._supply = Supply(self._made, size, max_age_s, on_failure)
        self._state = "new"

    def __repr__(self) -> str:
        return f"<Pool {self._state} {self.ready}/{self.size} ready, {self.claimed} claimed>"

    @property
    def size(self) -> int:
        """How many machines are to be ready; `resize` changes it."""
        return self._supply.size

    @property
    def ready(self) -> int:
        """How many machines are ready."""
        return len(self._supply.stock)

    @property
    def claimed(self) -> int:
        """How many machines have an owner."""
        return len(self._supply.claimed)

    @property
    def failures(self) -> int:
        """How many creations have failed."""
        return self._supply.backoff.failures

    @property
    def failure(self) -> Exception | None:
        """Why machines cannot be made at present; None when they can, as far as is known.

        The backend is asked again after growing pauses (0.5 s to 60 s, or as long as it
        says), for one machine, until it makes one.
        """
        return self._supply.backoff.failure

    # the beginning

    async def __aenter__(self) -> Self:
        """Begin to make machines.

        Raises:
            UnsupportedError: A backend cannot do what is demanded.
            ProviderNotFoundError: There is no such backend; see also the other
                errors of `providers.registry`.
            SandboxError: What the agent needs is missing; see `Agent.prepare`.
        """
        if self._state != "new":
            raise SandboxClosedError("A pool can be entered once; make a new one.")
        if self._agent is not None:
            self.spec = await self._agent.prepare(self.spec)
        async with contextlib.AsyncExitStack() as undo:
            providers = [(await choose(chosen, undo))[0] for chosen in self._chosen]
            for provider in providers:
                admit(self.spec, provider.capabilities(), provider.name)
            self._opened = undo.pop_all()
        self._providers, self._state = providers, "open"
        self._supply.begin()
        return self

    async def _made(self) -> Sandbox:
        """A machine for nobody yet."""
        return await Sandbox.create(
            self._providers,
            spec=in_advance(self.spec, self._max_age_s),
            on_progress=self._on_progress,
            wait_s=self._wait_s,
        )

    async def filled(self) -> None:
        """Wait until `size` machines are ready.

        Raises:
            Exception: The `failure`, where it will not pass by itself.
            SandboxClosedError: The pool is not open.
        """
        while True:
            self._check_open()
            if self._supply.stock.fresh >= self.size:
                return
            self._raise_lasting()
            await self._supply.changed.wait()

    # claims

    def claim(
        self,
        *,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, Content] | None = None,
        network: NetworkPolicy | str | None = None,
        secrets: Sequence[Secret] = (),
        wait_s: float | None = None,
    ) -> Opening[Sandbox]:
        """Take a machine: `await` it, or leave it to `async with`, which destroys it.

        It has answered a moment ago; one that does not is destroyed, and the next is taken.
        Its life-time and its idle time begin now.

        Args:
            env: Variables beside those of the pool's spec.
            files: What to write before it is handed out, by path in the sandbox: bytes,
                text, or the path of a file or directory of this machine.
            network: Its policy; None is that of the pool's spec.
            secrets: As for `Sandbox.create`.
            wait_s: Seconds to wait where none is ready; None is the pool's.

        Raises:
            InvalidSpecError: A value is wrong. No machine was taken.
            UnsupportedError: The backend's own network, open or native, can be neither
                given nor taken away at a claim. No machine was taken.
            CapacityError: None became ready within `wait_s`; its cause is the pool's
                `failure`, if there is one.
            SandboxError: The `failure` of the pool, where it will not pass by itself; or a
                file could not be written, and the machine was destroyed.
            SandboxClosedError: The pool is not open, or drained.

        Cancelling leaves the machine in the pool, or destroys it if it has been given
        anything of its owner's.
        """
        self._check_open()
        changes: dict[str, Any] = {"env": {**self.spec.env, **(env or {})}}
        if network is not None:
            changes["network"] = network
        spec = SandboxSpec.build(self.spec, **changes)
        check_change(in_advance(self.spec, 0.0).network, spec.network)
        outside = Outside(secrets, self._gateway)
        outside.check(spec.network, spec.env)
        owner = Owner(spec, dict(files or {}), outside)
        return Opening(self._claim(owner, self._wait_s if wait_s is None else wait_s))

    async def _claim(self, owner: Owner, wait_s: float) -> Sandbox:
        deadline = time.monotonic() + wait_s
        while True:
            machine = await self._take(max(0.0, deadline - time.monotonic()), wait_s)
            try:
                sandbox = await machine.give_to(owner)
            except DeadMachineError as error:
                log.warning("a machine of the pool is not handed out: %s", error)
                self._supply.end(machine)
            except BaseException:
                self._supply.end(machine)
                raise
            else:
                return sandbox

    async def _take(self, left_s: float, wait_s: float) -> Machine:
        """A machine that is nobody else's."""
        self._check_open()
        machine = self._supply.stock.take()
        if machine is not None:
            self._supply.adjust()
            return machine
        if self._supply.backoff.pause_s:
            self._raise_lasting()
        place = self._supply.stock.join()
        self._supply.adjust()
        try:
            return await self._supply.stock.wait(place, left_s)
        except TimeoutError:
            raise self._none_ready(wait_s) from self.failure
        finally:
            self._supply.adjust()

    async def claim_for(
        self,
        agent: Agent,
        *,
        env: Mapping[str, str] | None,
        network: NetworkPolicy | str | None,
        secrets: Sequence[Secret],
        wait_s: float,
    ) -> Sandbox:
        """A machine that has what an agent needs, for a `Session`.

        Raises:
            InvalidSpecError: The machines were not made for this agent.
            SandboxError: See `claim`, and `Agent.prepare`.
        """
        wanted = SandboxSpec.build(self.spec, env={**self.spec.env, **(env or {})})
        prepared = await agent.prepare(wanted)
        there = prepared.model_copy(update={"artifacts": wanted.artifacts})
        if not set(prepared.artifacts) <= set(wanted.artifacts) or there != wanted:
            raise InvalidSpecError(
                f"the machines of the pool have not what the agent {agent.name!r} needs: "
                f"Pool(..., agent={agent.name!r}) makes them with it"
            )
        return await self.claim(env=env, network=network, secrets=secrets, wait_s=wait_s)

    def _raise_lasting(self) -> None:
        """Raise the failure that will not pass by itself."""
        if self.failure is not None and self._supply.backoff.lasting:
            raise copy.copy(self.failure)

    def _none_ready(self, wait_s: float) -> CapacityError:
        why = "" if self.failure is None else f": the last creation failed with {self.failure}"
        return CapacityError(
            f"no machine of the pool became ready within {wait_s:g} s "
            f"({self._supply.making} are being made){why}",
            op="claim",
            retryable=True,
        )

    # changes and the end

    def resize(self, size: int) -> None:
        """Keep so many ready from now on; the oldest of those that are too many go.

        Raises:
            InvalidSpecError: It is negative.
            SandboxClosedError: The pool is not open, or drained.
        """
        self._check_open()
        self._supply.size = checked_size(size)
        self._supply.adjust()

    async def drain(self, timeout_s: float | None = None) -> None:
        """Hand out nothing more, and wait until the owners have ended all that they have.

        Machines that are ready are destroyed, and who waits for one is refused. Cancelling
        it stops the wait alone.

        Args:
            timeout_s: Seconds to wait for the owners; None is for ever.

        Raises:
            OperationTimeoutError: Some had not ended theirs; leaving the pool does it.
            SandboxClosedError: The pool is not open.
        """
        if self._state != "drained":
            self._check_open()
        self._state = "drained"
        await run_to_end(self._supply.empty(), deadline_s=_CLOSE_S)
        try:
            with anyio.fail_after(timeout_s):
                while self._supply.claimed:
                    await asyncio.wait(list(self._supply.claimed.values()))
        except TimeoutError:
            raise OperationTimeoutError(
                f"{self.claimed} machines of the pool still had owners after {timeout_s:g} s",
                op="drain",
            ) from None

    async def aclose(self) -> None:
        """Destroy all machines, also those that have owners. Idempotent.

        Cancellation waits until it is done.
        """
        if self._state != "closed":
            self._state = "closed"
            await run_to_end(self._close(), deadline_s=_CLOSE_S)

    async def _close(self) -> None:
        try:
            await self._supply.close()
        finally:
            await self._opened.aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _check_open(self) -> None:
        if self._state != "open":
            said = {
                "new": "is not open: use `async with Pool(...)`",
                "drained": "is drained, and hands out nothing more",
            }.get(self._state, "has been closed")
            raise SandboxClosedError(f"The pool {said}.")
