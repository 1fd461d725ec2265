"""Values that the sandbox never has: it has a placeholder, and the gateway the value."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway.hosts import HostError, Rule, parse_rule
from sandboxkit.spec import NetworkPolicy

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class SecretError(Exception):
    """The value cannot be had, or cannot stand in a header; the message never shows it."""


class Secret:
    """A value that goes to its hosts only, over TLS, and is never inside the sandbox.

    Args:
        name: What it is called, also as the environment variable in the sandbox that
            holds the placeholder.
        value: The value, or an async function that returns it; this is called for each
            request that needs it, so that it can refresh what expires.
        hosts: Where it may go: entries as in `NetworkPolicy.allow`, port 443 by default.
            The network policy must allow these hosts as well.

    Raises:
        InvalidSpecError: The name or a host is wrong, or there is no host.
    """

    def __init__(
        self, name: str, value: str | Callable[[], Awaitable[str]], *, hosts: Sequence[str]
    ) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidSpecError(f"{name!r} is not a name for a secret: letters, digits and _")
        if isinstance(hosts, str) or not hosts:
            raise InvalidSpecError(f"the secret {name} needs a list of the hosts it may go to")
        self.name = name
        self.rules: tuple[Rule, ...] = tuple(_rule(name, entry) for entry in hosts)
        self._value = value
        self._last = value if isinstance(value, str) else None

    def covers(self, host: str, port: int) -> bool:
        """Whether the value may go to a canonical host, on a port."""
        return any(rule.names(host) and port in rule.ports for rule in self.rules)

    @property
    def last(self) -> str | None:
        """The value as it was last known, so that it can be kept out of logs; None before."""
        return self._last

    async def value(self) -> str:
        """The value of now.

        Raises:
            SecretError: It cannot be had, or holds control characters.
        """
        if isinstance(self._value, str):
            return self._usable(self._value)
        try:
            value = await self._value()
        except Exception as error:  # noqa: BLE001
            # The caller's own code: its message may hold what it worked with.
            raise SecretError(f"the secret {self.name} failed: {type(error).__name__}") from None
        return self._usable(value)

    def _usable(self, value: object) -> str:
        if not isinstance(value, str) or not value or _FORBIDDEN.search(value):
            raise SecretError(f"the value of the secret {self.name} cannot stand in a header")
        self._last = value
        return value

    def __repr__(self) -> str:
        hosts = ", ".join(str(rule) for rule in self.rules)
        how = " by a function" if inspect.isroutine(self._value) else ""
        return f"Secret({self.name!r}{how}, hosts=[{hosts}])"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(f"the secret {self.name} cannot be pickled or copied")


def check_secrets(secrets: Sequence[Secret], policy: NetworkPolicy, env: Mapping[str, str]) -> None:
    """Check secrets against what else a sandbox shall have.

    Args:
        secrets: The secrets.
        policy: The sandbox's policy.
        env: The sandbox's own variables.

    Raises:
        InvalidSpecError: Two have one name, a variable has it as well, or the policy does
            not lead to all hosts of a secret through the gateway.
    """
    names = [secret.name for secret in secrets]
    for name in names:
        if names.count(name) > 1:
            raise InvalidSpecError(f"two secrets have the same name, {name}")
        if name in env:
            raise InvalidSpecError(f"{name} is both a secret and a variable of env; leave one out")
    allowed = [parse_rule(entry) for entry in policy.hosts]
    missing = [
        f"{rule} for {secret.name}"
        for secret in secrets
        for rule in secret.rules
        if not (policy.by_gateway and _allows(allowed, rule))
    ]
    if not missing:
        return
    why = (
        "the list of allowed hosts lacks them"
        if policy.by_gateway
        else f"network={policy.mode!r}{' (native)' if policy.native else ''} does not lead "
        "through the gateway"
    )
    raise InvalidSpecError(
        f"no secret can reach {', '.join(missing)}: {why}. "
        "Add the hosts to NetworkPolicy.allow([...])"
    )


def _allows(allowed: Sequence[Rule], wanted: Rule) -> bool:
    host = f"x.{wanted.host}" if wanted.subdomains else wanted.host
    ports = {
        port
        for rule in allowed
        if rule.names(host) and (rule.subdomains or not wanted.subdomains)
        for port in rule.ports
    }
    return ports.issuperset(wanted.ports)


def _rule(name: str, entry: str) -> Rule:
    try:
        return parse_rule(entry, default_ports=(443,))
    except HostError as error:
        raise InvalidSpecError(f"the secret {name}: {entry!r} is not a host: {error}") from None
