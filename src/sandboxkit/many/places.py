"""Where the tasks of a map run: each in a sandbox, or a session, of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from sandboxkit.admission import admit
from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway.model.budget import Budget
from sandboxkit.lifecycle import choose
from sandboxkit.many.job import Place
from sandboxkit.pool.pool import Pool
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.spec import SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.agents.base import Agent
    from sandboxkit.failover import OneProvider
    from sandboxkit.gateway.model.meter import Price
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.settings import Gateway

OpenPlace = Callable[[], AbstractAsyncContextManager[Place]]


class Places:
    """What each of them is. See `map` for the arguments.

    Raises:
        InvalidSpecError: Some do not go together.
    """

    def __init__(
        self,
        provider: OneProvider | Sequence[OneProvider] | Pool,
        agent: Agent | None,
        *,
        spec: SandboxSpec | None,
        budgets: Sequence[Budget],
        models: Sequence[str] | None,
        prices: Mapping[str, Price] | None,
        secrets: Sequence[Secret],
        gateway: Gateway | None,
        wait_s: float,
        fields: Mapping[str, Any],
    ) -> None:
        self._provider, self._agent = provider, agent
        self._budgets, self._models, self._prices = budgets, models, prices
        self._secrets, self._gateway = secrets, gateway
        self._wait_s = wait_s
        self._fields = dict(fields)
        if agent is None and (budgets or models is not None or prices):
            raise InvalidSpecError("budget, models and prices are an agent's: give one (agent=)")
        if isinstance(provider, Pool):
            if spec is not None or gateway is not None or not fields.keys() <= {"env", "network"}:
                raise InvalidSpecError(
                    "a Pool was given: its machines are made already, and take env, network and "
                    "secrets, but no other field of a spec, and no gateway"
                )
        else:
            self._spec = SandboxSpec.build(spec, **fields)

    async def begin(self, opened: contextlib.AsyncExitStack) -> OpenPlace:
        """Choose the backends, once for all.

        Raises:
            UnsupportedError: A backend cannot do what is demanded.
            ProviderNotFoundError: There is no such backend; see also the other
                errors of `providers.registry`.
        """
        if isinstance(self._provider, Pool):
            return self._on_pool(self._provider)
        several = self._provider
        if isinstance(several, str | SandboxProvider):
            several = [several]
        chosen = [(await choose(each, opened))[0] for each in several]
        for provider in chosen:
            admit(self._spec, provider.capabilities(), provider.name)
        return self._on_backend(chosen)

    def _on_pool(self, pool: Pool) -> OpenPlace:
        agent = self._agent
        if agent is not None:
            return lambda: self._session(pool, agent, self._fields)
        return lambda: pool.claim(secrets=self._secrets, wait_s=self._wait_s, **self._fields)

    def _on_backend(self, chosen: Sequence[SandboxProvider]) -> OpenPlace:
        agent = self._agent
        if agent is not None:
            fields = {"spec": self._spec, "gateway": self._gateway}
            return lambda: self._session(chosen, agent, fields)
        return lambda: Sandbox.create(
            chosen,
            spec=self._spec,
            secrets=self._secrets,
            gateway=self._gateway,
            wait_s=self._wait_s,
        )

    def _session(
        self, place: Pool | Sequence[SandboxProvider], agent: Agent, fields: Mapping[str, Any]
    ) -> Session:
        return Session(
            place,
            agent=agent,
            budget=self._budgets,
            models=self._models,
            prices=self._prices,
            secrets=self._secrets,
            wait_s=self._wait_s,
            **fields,
        )
