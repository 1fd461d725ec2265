"""How a session comes to its agent and its sandbox, anew or out of a store."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio.to_thread

from sandboxkit.agents.registry import agents
from sandboxkit.errors import InvalidSpecError, UnsupportedError
from sandboxkit.ownership import for_session
from sandboxkit.pool.pool import Pool
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.sandbox import Sandbox
from sandboxkit.session.sharing import SharedSandbox
from sandboxkit.spec import SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.agents.base import Agent
    from sandboxkit.failover import OneProvider
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.settings import Gateway
    from sandboxkit.progress import Listener
    from sandboxkit.store.keeping import Keeping
    from sandboxkit.store.store import Store
    from sandboxkit.store.workspace import Workspace

_AT_CLAIM = {"env", "network"}  # the fields of a spec that a machine of a pool takes


@dataclass(slots=True)
class Wanted:
    """What a session was made with; see `Session`.

    Attributes:
        name: The session's name; None without one.
        fork: Whether a second session is made of the one that is resumed.
        made: The spec that the machine was made with; None before, and for one that was given.
    """

    provider: OneProvider | Sequence[OneProvider] | Sandbox | Pool | None
    agent: str | Agent | None
    spec: SandboxSpec | None
    spec_fields: Mapping[str, Any]
    secrets: Sequence[Secret]
    gateway: Gateway | None
    store: Store | str | None
    workspace: Workspace | None
    on_progress: Listener | None
    wait_s: float
    name: str | None = None
    fork: bool = False
    sandbox: Sandbox | None = None
    shared_folders: Sequence[str] = ()
    made: SandboxSpec | None = field(default=None, init=False)

    def check(self, *, resume: bool) -> None:
        """Refuse what contradicts itself.

        Raises:
            InvalidSpecError: It does.
            UnsupportedError: The sandbox that is to be shared cannot be.
        """
        if self.name is not None:
            self._check_named(resume=resume)
        if self.sandbox is not None:
            self._check_shared(self.sandbox)
            return
        if self.shared_folders:
            raise InvalidSpecError("shared_folders are for sessions in one sandbox: give sandbox=")
        if isinstance(self.provider, Sandbox):
            if self.spec is not None or self.spec_fields or self.secrets or self.gateway:
                raise InvalidSpecError(
                    "a Sandbox was given: it is as it is, and cannot take a spec or its fields, "
                    "secrets or a gateway"
                )
            if self.store is not None:
                raise InvalidSpecError(
                    "a session with a store makes its own sandbox, whose files are the session's"
                )
        if isinstance(self.provider, Pool):
            if self.spec is not None or self.gateway or not self.spec_fields.keys() <= _AT_CLAIM:
                raise InvalidSpecError(
                    "a Pool was given: its machines are made already, and take env, network and "
                    "secrets, but no other field of a spec, and no gateway"
                )
            if self.store is not None:
                raise InvalidSpecError(
                    "a session with a store makes its own sandbox: give it a provider, not a Pool"
                )
        if self.provider is None and (self.store is None or not resume):
            raise InvalidSpecError("name a provider; only a session out of a store has one")
        if self._on_idle == "save" and self.store is None:
            raise InvalidSpecError("on_idle='save' needs a place to save in: Session(store=...)")
        if self.workspace is not None and self.store is None:
            raise InvalidSpecError("workspace says what a store keeps: give a store as well")

    @property
    def _on_idle(self) -> object:
        return self.spec_fields.get("on_idle", None if self.spec is None else self.spec.on_idle)

    def _check_named(self, *, resume: bool) -> None:
        if self.sandbox is not None:
            raise InvalidSpecError("give either name or sandbox: a named session makes its own")
        if self._on_idle in {"snapshot", "save"}:
            raise InvalidSpecError(
                f"on_idle={self._on_idle!r} would end a machine that another host may be using: a "
                "named session sleeps by 'pause'; with a store, it is also taken up by its name "
                "when its machine has ended"
            )
        if isinstance(self.provider, Pool):
            raise InvalidSpecError(
                "a machine of a Pool is its owner's, and ends with the session: for a named "
                "session, give a provider"
            )
        if not isinstance(self.provider, str | SandboxProvider):
            raise InvalidSpecError(
                "a named session finds its sandbox, or makes it, at one backend: give one "
                "provider, not a Sandbox, a list or None"
            )
        if resume:
            raise InvalidSpecError(
                "give either name or resume: a session that lives, or that the store has under "
                "this name, is taken up by its name alone"
            )

    def _check_shared(self, sandbox: Sandbox) -> None:
        there = sandbox.info.provider
        one = self.provider if isinstance(self.provider, str | SandboxProvider) else ()
        if self.provider is not None and _name_of(one) != there:
            raise InvalidSpecError(
                f"sandbox: this one is on {there!r}, and so the provider is {there!r} or left out, "
                f"not {self.provider!r}"
            )
        given = self.spec_fields.keys() - {"user"}
        if self.spec is not None or given or self.secrets or self.gateway:
            raise InvalidSpecError(
                "a sandbox was given, which is as it is: with sandbox= a session takes user= and "
                "shared_folders=, but no spec, no other field of one"
                + (f" ({', '.join(sorted(given))})" if given else "")
                + ", no secrets and no gateway"
            )
        if self.store is not None or self.workspace is not None:
            raise InvalidSpecError(
                "a session with a store makes its own sandbox, whose files are the session's"
            )
        SharedSandbox.check(sandbox, self.spec_fields.get("user"), self.shared_folders)

    def opened_store(self) -> AbstractAsyncContextManager[Store]:
        """The store; one that was given by its URL is closed again."""
        if self.store is None:
            raise InvalidSpecError("there is no store")
        return _opened(self.store)

    async def keeping(self, session_id: str, *, resume: bool) -> Keeping | None:
        """What keeps the session, not opened yet; None where it is not kept.

        Raises:
            ImportError: The extra `store` is not installed.
        """
        if self.store is None:
            return None
        make = await anyio.to_thread.run_sync(_keeping)  # the imports take a while
        return make(self.store, session_id, workspace=self.workspace, resume=resume, fork=self.fork)

    def choose_agent(self, had: str | None) -> Agent:
        """The agent.

        Raises:
            UnsupportedError: It is another one than the session `had`.
        """
        chosen = self.agent or had or "claude-code"
        agent = agents.make(chosen) if isinstance(chosen, str) else chosen
        if had not in {None, agent.name}:
            raise UnsupportedError(
                f"agent: the session was with {had!r}, whose conversation {agent.name!r} cannot "
                "take up",
                op="resume",
            )
        return agent

    async def make_sandbox(
        self,
        agent: Agent,
        keeping: Keeping | None,
        session_id: str,
        *,
        resume: bool,
        make: Callable[[SandboxSpec], Awaitable[Sandbox]] | None = None,
    ) -> tuple[Sandbox, Agent, float]:
        """The sandbox, the agent to start in it, and when the machine was asked for.

        Args:
            agent: The agent.
            keeping: What keeps the session, where it is kept.
            session_id: The session.
            resume: Whether it is in the store already.
            make: Makes the sandbox; None is `Sandbox.create`.
        """
        if self.sandbox is not None:
            began = time.monotonic()
            user, folders = self.spec_fields.get("user"), self.shared_folders
            place = await SharedSandbox.join(self.sandbox, user=user, shared_folders=folders)
            return place, agent, began
        if isinstance(self.provider, Sandbox):
            return self.provider, agent, time.monotonic()
        if isinstance(self.provider, Pool):
            began = time.monotonic()
            return await self._claimed(self.provider, agent), agent, began
        provider = self.provider
        if provider is None and keeping is not None:
            provider = keeping.backend
        if provider is None:
            raise InvalidSpecError("there is no provider to make a sandbox")
        name = _name_of(provider)
        if keeping is not None and resume:
            spec = keeping.spec(self.spec, self.spec_fields, secrets=self.secrets, backend=name)
        else:
            spec = SandboxSpec.build(self.spec, **self.spec_fields)
        if keeping is not None:
            taken = await keeping.take(agent.name, name or "", spec, self.secrets)
            agent = agent.kept_in(taken)
        prepared = for_session(await agent.prepare(spec), session_id)
        self.made = prepared
        began = time.monotonic()
        if make is not None:
            sandbox = await make(prepared)
        else:
            sandbox = await self._create(provider, prepared)
        if keeping is not None:
            try:
                await keeping.begin(sandbox, spec, self.secrets)
            except BaseException:
                await sandbox.aclose()
                raise
        return sandbox, agent, began

    async def _create(
        self, provider: OneProvider | Sequence[OneProvider], spec: SandboxSpec
    ) -> Sandbox:
        return await Sandbox.create(
            provider,
            spec=spec,
            on_progress=self.on_progress,
            wait_s=self.wait_s,
            secrets=self.secrets,
            gateway=self.gateway,
        )

    async def made_again(self, image: str, backend: str) -> tuple[Sandbox, float]:
        """The same sandbox once more, from a snapshot of it, which has its artifacts, too.

        Returns:
            It, and when it was asked for.
        """
        if self.made is None:
            raise InvalidSpecError("there was no sandbox of this session's making")
        spec = self.made.model_copy(update={"image": image, "artifacts": ()})
        began = time.monotonic()
        return await self._create(self.backend(backend), spec), began

    def backend(self, name: str) -> OneProvider:
        """The provider of this name: the caller's object, if there is one."""
        given = self.provider
        several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        for each in several:
            if isinstance(each, SandboxProvider) and each.name == name:
                return each
        return name

    async def _claimed(self, pool: Pool, agent: Agent) -> Sandbox:
        fields = {"env": None, "network": None, **self.spec_fields}
        return await pool.claim_for(agent, secrets=self.secrets, wait_s=self.wait_s, **fields)


def conversation_id(value: str) -> str:
    """The id of a conversation.

    Raises:
        InvalidSpecError: It is not a UUID.
    """
    try:
        return str(UUID(value))
    except ValueError:
        raise InvalidSpecError(
            f"{value!r} is not the id of a conversation: it must be a UUID"
        ) from None


def _keeping() -> type[Keeping]:
    try:
        from sandboxkit.store.keeping import Keeping
    except ModuleNotFoundError as error:
        raise ImportError(
            'a session with a store needs another package: pip install "sandboxkit[store]"'
        ) from error
    return Keeping


@asynccontextmanager
async def _opened(store: Store | str) -> AsyncGenerator[Store]:
    if not isinstance(store, str):
        yield store
        return
    await anyio.to_thread.run_sync(_keeping)  # the imports take a while
    from sandboxkit.store.store import Store

    async with Store(store) as opened:
        yield opened


def _name_of(provider: OneProvider | Sequence[OneProvider]) -> str | None:
    """The name of the one backend that was chosen; None for a list."""
    if isinstance(provider, str):
        return provider
    return provider.name if isinstance(provider, SandboxProvider) else None
