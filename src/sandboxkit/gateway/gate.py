"""The one way out: every connection to a host is decided on, made and recorded here."""

from __future__ import annotations

from sandboxkit.gateway.decisions import Log
from sandboxkit.gateway.limits import Limits
from sandboxkit.gateway.policy import Rules
from sandboxkit.gateway.refusals import Refusal, forbidden
from sandboxkit.gateway.resolver import AddressDenied, Resolver, Streams, Unreachable


class Gate:
    """What all connections of a session share.

    Args:
        rules: The policy; replaced when it changes.
        resolver: From names to connections.
        log: Where decisions go.
        limits: The bounds.
    """

    def __init__(self, rules: Rules, resolver: Resolver, log: Log, limits: Limits) -> None:
        self.rules, self.resolver, self.log, self.limits = rules, resolver, log, limits

    def check(self, host: str, port: int) -> None:
        """Raise the `Refusal` of the policy, if it does not allow a canonical host."""
        if reason := self.rules.refusal(host, port):
            raise forbidden(reason, host, port)

    async def connect(self, method: str, host: str, port: int) -> tuple[str, Streams]:
        """Check, resolve, check the addresses, and connect to the first that answers.

        Returns:
            The address, and the connection to it.

        Raises:
            Refusal: Denied, or it cannot be reached.
        """
        self.check(host, port)
        try:
            addresses = await self.resolver.addresses(host, port)
            address, streams = await self.resolver.connect(addresses, port)
        except AddressDenied as error:
            raise forbidden(str(error), host, port) from None
        except Unreachable as error:
            message = f"{host} is allowed, but cannot be reached: {error}"
            raise Refusal(502, "unreachable", message, host=host, port=port, allowed=True) from None
        self.log.add(method, host, port, allowed=True, address=address)
        return address, streams
