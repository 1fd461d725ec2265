"""How the gateway on this machine reaches the world."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ssl import SSLContext

    from sandboxkit.gateway.decisions import Decision
    from sandboxkit.gateway.egress import Egress
    from sandboxkit.gateway.limits import Limits
    from sandboxkit.gateway.resolver import Dial, Resolve
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.way import Way
    from sandboxkit.spec import NetworkPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What the gateway uses in place of this machine's own network; all of it optional.

    Whatever is given, the policy and the check of addresses hold: `dial` only ever gets a
    public address. So a test can lead a public name to a server on loopback.

    Attributes:
        resolve: From a canonical name and a port to addresses; None is the system's resolver.
        dial: Connects to a checked address and a port; None is TCP.
        trust: Whom the gateway trusts where it speaks TLS itself, towards the hosts of
            secrets; None is the system's certificates.
        limits: The bounds of one sandbox; None is `Limits()`.
    """

    resolve: Resolve | None = None
    dial: Dial | None = None
    trust: SSLContext | None = None
    limits: Limits | None = None

    def egress(
        self,
        policy: NetworkPolicy,
        secrets: Sequence[Secret],
        on_decision: Callable[[Decision], None],
        left: Way | None = None,
    ) -> Egress:
        """The egress proxy of one sandbox; it loads packages: call it in a worker thread.

        Raises:
            ImportError: A package is missing; it says how to install it.
        """
        check_installed(policy, secrets)
        from sandboxkit.gateway.egress import Egress

        return Egress(
            policy,
            resolve=self.resolve,
            dial=self.dial,
            on_decision=on_decision,
            secrets=secrets,
            trust=self.trust,
            limits=self.limits,
            left=left,
        )


def check_installed(policy: NetworkPolicy, secrets: Sequence[Secret]) -> None:
    """See that the packages are there that the gateway needs for a sandbox; loads none.

    Raises:
        ImportError: One is missing; it says how to install it.
    """
    needed = {"h11": "a list of allowed hosts"} if policy.by_gateway else {}
    if secrets:
        needed["cryptography"] = "a secret"
    for package, what in needed.items():
        if find_spec(package) is None:
            raise ImportError(
                f'{what} needs the package {package}: pip install "sandboxkit[gateway]"'
            )
