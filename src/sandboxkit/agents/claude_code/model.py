"""How the CLI in the sandbox reaches a model: through the gateway, which has the key."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandboxkit.agents.service import CREDENTIALS, upstream_for
from sandboxkit.gateway.model.endpoint import ModelEndpoint

if TYPE_CHECKING:
    from sandboxkit.channel.tunnels import Listening
    from sandboxkit.gateway.model.account import Account
    from sandboxkit.gateway.model.upstream import Upstream
    from sandboxkit.sandbox import Sandbox

__all__ = ["CREDENTIALS", "LastingRoute", "lasting_route", "model_route", "upstream_for"]


@contextlib.asynccontextmanager
async def model_route(
    sandbox: Sandbox, upstream: Upstream, account: Account, *, web: bool
) -> AsyncGenerator[dict[str, str]]:
    """Make the model reachable in the sandbox, whatever its network, for the block.

    Args:
        sandbox: Where.
        upstream: The service.
        account: What may be asked of it, and what has been.
        web: Whether server-side tools may reach the web.

    Yields:
        The CLI's environment for it. Nothing in it is worth stealing: the token is good
        for this route alone, and dies with it.
    """
    async with (
        ModelEndpoint(upstream, account, web=web) as endpoint,
        sandbox.ports.reverse(0, "127.0.0.1", endpoint.port, passive=True) as address,
    ):
        endpoint.port_inside = address.port
        yield endpoint.environment("127.0.0.1", address.port)


@dataclass(frozen=True, slots=True)
class LastingRoute:
    """A way to the model whose end in the sandbox outlives this host.

    Attributes:
        environment: The CLI's, for it.
        token: What the CLI shows there.
        listening: Its port in the sandbox.
    """

    environment: dict[str, str]
    token: str
    listening: Listening


@contextlib.asynccontextmanager
async def lasting_route(
    sandbox: Sandbox,
    upstream: Upstream,
    account: Account,
    *,
    web: bool,
    port: int = 0,
    token: str | None = None,
) -> AsyncGenerator[LastingRoute]:
    """Likewise for a CLI that outlives its host: what it asks meanwhile waits for the next.

    Args:
        sandbox: Where.
        upstream: The service.
        account: As above; so is `web`.
        web: See above.
        port: The port that an earlier host has left; 0 picks one.
        token: What the CLI shows there; None makes one.
    """
    async with (
        ModelEndpoint(upstream, account, web=web, token=token) as endpoint,
        sandbox.ports.lasting(port, "127.0.0.1", endpoint.port) as listening,
    ):
        endpoint.port_inside = listening.port
        environment = endpoint.environment("127.0.0.1", listening.port)
        yield LastingRoute(environment, endpoint.token, listening)
