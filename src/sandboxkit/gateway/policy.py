"""Whether a network policy allows a host, and the reason if it does not."""

from __future__ import annotations

from collections.abc import Sequence

from sandboxkit.gateway.hosts import Rule, parse_rule
from sandboxkit.spec import NetworkPolicy


class Rules:
    """A `NetworkPolicy`, made ready to be asked.

    Args:
        policy: `none` allows nothing; `open` allows every public host on every port.
    """

    def __init__(self, policy: NetworkPolicy) -> None:
        self.policy = policy
        self._rules: Sequence[Rule] = [parse_rule(entry) for entry in policy.hosts]

    def refusal(self, host: str, port: int) -> str | None:
        """Why a canonical host may not be reached on a port; None if it may.

        The addresses of the host are another question: `resolver.Resolver` checks them.
        """
        if self.policy.mode == "open":
            return None
        if self.policy.mode == "none":
            return "this sandbox has no network"
        ports = [port for rule in self._rules if rule.names(host) for port in rule.ports]
        if port in ports:
            return None
        if ports:
            allowed = ", ".join(str(number) for number in sorted(set(ports)))
            return f"port {port} of {host} is not allowed, only {allowed}"
        return f"{host} is not on the list of allowed hosts"
