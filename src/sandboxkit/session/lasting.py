"""A session with a name: how it is entered by one host after the other, let go of, and ended."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import InvalidSpecError, SandboxDiedError, SandboxError, StoreError
from sandboxkit.lifecycle import choose
from sandboxkit.ownership import owner
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.session.alone import alone
from sandboxkit.session.named import LostNameError, Named, Taken, check_name
from sandboxkit.spec import KEY_LABEL, SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.agents.base import Agent
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session.alone import Alone
    from sandboxkit.session.beginning import Wanted
    from sandboxkit.store.keeping import Keeping

log = logging.getLogger(__name__)

_CLOSE_S: Final = 60.0


@dataclass(slots=True)
class Entered:
    """What a named session is made of.

    Attributes:
        taken: Its sandbox.
        agent: The agent to be started, or taken up, in it.
        keeping: What keeps it in a store, where it has one.
        began: When the sandbox was asked for, monotonic.
        resumed: Whether there is a conversation that must be found.
    """

    taken: Taken
    agent: Agent
    keeping: Keeping | None
    began: float
    resumed: bool


class Lasting:
    """The name of one session.

    Args:
        name: The name.
        wanted: What the session was made with.
        keep_s: Seconds that it outlives its last host; the spec's `lease_s` wins.
        demanded: The id that it must have; None is any.

    Attributes:
        name: See above.
        keep_s: See above.

    Raises:
        InvalidSpecError: It cannot be a name; or the spec is wrong.
    """

    def __init__(
        self, name: str, wanted: Wanted, keep_s: float, demanded: str | None = None
    ) -> None:
        self.name = check_name(name)
        self._wanted = wanted
        self._demanded = demanded
        self._spec = SandboxSpec.build(wanted.spec, **wanted.spec_fields)
        written = self._spec.demands("lease_s")
        self.keep_s = self._spec.lease_s if written else check_keep(keep_s)
        self._taken: Taken | None = None
        self._own: SandboxProvider | None = None  # the provider, where it is ours to close

    async def enter(self, session_id: str) -> Entered:
        """Take the session up if it lives; else make it, out of its store if that has it.

        Args:
            session_id: The id of a new one.

        Raises:
            SandboxError: See `Session.__aenter__`. What was made is removed.
        """
        async with contextlib.AsyncExitStack() as undo:
            provider, owns = await choose(self._own or self._provider(), undo)
            async with alone(owner(), self.name) as lock:
                named = self._named(provider, lock)
                entered = None
                while entered is None:
                    entered = await self._entered(named, session_id)
            self._taken = entered.taken
            self._own = provider if owns else self._own  # it is entered again when it wakes up
            undo.pop_all()
        return entered

    def _provider(self) -> str | SandboxProvider:
        chosen = self._wanted.provider
        if isinstance(chosen, str | SandboxProvider):
            return chosen
        raise InvalidSpecError("a named session lives at one backend: name one provider")

    def _named(self, provider: SandboxProvider, lock: Alone) -> Named:
        wanted = self._wanted
        return Named(
            self.name,
            provider,
            lock,
            self._spec,
            self.keep_s,
            secrets=wanted.secrets,
            gateway=wanted.gateway,
        )

    async def _entered(self, named: Named, session_id: str) -> Entered | None:
        """See `enter`; None where another machine was quicker."""
        began = time.monotonic()
        taken = await named.find()
        if taken is None:
            try:
                return await self._made(named, session_id)
            except LostNameError:
                return None
        keeping: Keeping | None = None
        try:
            self._check_id(taken.session)
            keeping = await self._wanted.keeping(taken.session, resume=True)
            agent = await self._agent_in(taken.sandbox, keeping)
        except BaseException:
            await _close(keeping)
            await taken.sandbox.aclose()
            raise
        return Entered(taken, agent, keeping, began, taken.memo.begun)

    async def _agent_in(self, sandbox: Sandbox, keeping: Keeping | None) -> Agent:
        """The agent for a sandbox that lives; the store goes on with what is said in it."""
        self._wanted.made = self._spec
        if keeping is None:
            agent = self._wanted.choose_agent(None)
            await agent.prepare(self._spec)
            return agent.durable()
        try:
            await keeping.open()
        except StoreError as error:
            if error.code != "no_session":
                raise
            raise InvalidSpecError(
                f"the session {self.name!r} lives, and is not kept in this store: leave the store "
                "out, or give the one that it was begun with"
            ) from error
        agent = self._wanted.choose_agent(keeping.agent)
        await agent.prepare(self._spec)
        there, secrets = sandbox.info.provider, self._wanted.secrets
        agent = agent.kept_in(await keeping.take(agent.name, there, self._spec, secrets))
        keeping.goes_on_in(sandbox)
        return agent.durable()

    async def _made(self, named: Named, session_id: str) -> Entered:
        stored = await self._stored()
        if stored is not None:
            self._check_id(stored)
        keeping = await self._wanted.keeping(stored or session_id, resume=stored is not None)
        made: list[Taken] = []

        async def make(spec: SandboxSpec) -> Sandbox:
            made.append(await named.make(spec, self._wanted.on_progress, self._wanted.wait_s))
            return made[0].sandbox

        try:
            if keeping is not None:
                await keeping.open()
            agent = self._wanted.choose_agent(None if keeping is None else keeping.agent)
            if keeping is None:
                agent = agent.durable()  # what it refuses is refused before anything is made
            _, agent, began = await self._wanted.make_sandbox(
                agent, keeping, stored or session_id, resume=stored is not None, make=make
            )
        except BaseException:
            await _close(keeping)
            raise
        agent = agent if keeping is None else agent.durable()
        return Entered(made[0], agent, keeping, began, stored is not None)

    async def _stored(self) -> str | None:
        """The id of the session that the store has under this name."""
        if self._wanted.store is None:
            return None
        async with self._wanted.opened_store() as store:
            return await store.sessions.named(self.name)

    def _check_id(self, found: str) -> None:
        if self._demanded not in {None, found}:
            raise InvalidSpecError(
                f"the session {self.name!r} has the id {found}, not {self._demanded}: leave id out"
            )

    # the end

    async def close(self, keep_s: float | None, *, for_good: bool) -> None:
        """Let go of the sandbox, which lives on for so long; None ends it. For once.

        Args:
            keep_s: How long.
            for_good: Whether a store forgets the name.

        Raises:
            SandboxError: It could not be ended; it ends with its lease.
        """
        taken, own = self._taken, self._own
        self._taken = self._own = None
        try:
            if taken is not None:
                await taken.memo.aclose()
                await self._let_go(taken.sandbox, keep_s)
                if for_good:
                    await self._forget(taken.sandbox)
        finally:
            if own is not None:
                await own.aclose()

    async def _let_go(self, sandbox: Sandbox, keep_s: float | None) -> None:
        if keep_s is None or isinstance(sandbox.failure, SandboxDiedError):
            await sandbox.destroy()
            return
        try:
            await sandbox.detach(keep_s=keep_s)
        except SandboxError as error:
            log.warning("%s may live for longer, or shorter, than asked: %s", self.name, error)

    async def remove(self) -> None:
        """End what has this name, whoever uses it; a store forgets the name.

        Raises:
            SandboxError: The backend, or the store, cannot do it.
        """
        async with contextlib.AsyncExitStack() as undo:
            provider, _ = await choose(self._provider(), undo)
            async with alone(owner(), self.name) as lock:
                await self._named(provider, lock).remove_all()
        await self._unname()

    async def _forget(self, sandbox: Sandbox) -> None:
        async with alone(owner(), self.name) as lock:
            if lock.key == sandbox.info.labels.get(KEY_LABEL):  # and not of one made since
                await lock.forget()
        await self._unname()

    async def _unname(self) -> None:
        if self._wanted.store is not None:
            async with self._wanted.opened_store() as store:
                await store.sessions.unname(self.name)


def check_keep(keep_s: float) -> float:
    """Seconds for which a sandbox may live on.

    Raises:
        InvalidSpecError: They cannot be a lease.
    """
    return SandboxSpec.build(lease_s=keep_s).lease_s


async def _close(keeping: Keeping | None) -> None:
    if keeping is not None:
        await run_to_end(keeping.close(None), deadline_s=_CLOSE_S)
