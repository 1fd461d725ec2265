"""From a spec to what Modal is asked for, or why it cannot be had."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.base import Difference, Effective
from sandboxkit.providers.modal.failures import PROVIDER
from sandboxkit.spec import SandboxSpec

GUEST_USER: Final = "root"
USER: Final = "1000"
"""Who commands run as unless the spec says; it needs no entry in /etc/passwd."""

LONGEST_S: Final = 86_400
"""Modal ends every sandbox after a day (modal.com/docs/guide/sandboxes)."""

_START_S: Final = 10  # of a life-time, for the start: Modal counts it, the guest does not
# Of one of Modal's CPUs, which are physical cores (modal.com/docs/guide/resources).
_VCPUS: Final = 2
_SMALLEST_CPU: Final = 0.25  # an eighth of a core (modal.com/pricing)

# Modal ends a sandbox when its main program ends, and asks nobody to renew a lease: so
# the main program lives as long as the guest, which holds the lease, has its socket.
# Before that it waits for the host, and afterwards looks twice, for the guest that a
# connector starts in place of one that was killed.
ENTRY: Final = (
    "/bin/sh",
    "-c",
    """\
trap 'exit 0' TERM
nap() { sleep 1 & wait $!; }
run=/run/sandboxkit-0 guest=/run/sandboxkit-0/guest
mkdir -p /run; rm -f "$guest" "$run/ended"  # of the sandbox that a snapshot was made of
waited=0
until [ -S "$guest" ]; do
    waited=$((waited + 1))
    if [ "$waited" -gt 120 ]; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && exit 0
        while :; do nap; done
    fi
    nap
done
while [ -S "$guest" ] || { nap; [ -S "$guest" ]; }; do nap; done
""",
)


class Amount(NamedTuple):
    """A limit as Modal takes it: the same number is asked for and not exceeded."""

    cpu: tuple[float, float]
    memory: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be applied.

    Attributes:
        effective: In sandboxkit's words.
        differences: Where that is not what the spec wishes.
        amount: CPU in physical cores, memory in MiB.
        timeout: Seconds after which Modal itself ends the sandbox.
        block_network: Whether it has none.
        ports: Those that get a public address.
    """

    effective: Effective
    differences: tuple[Difference, ...]
    amount: Amount
    timeout: int
    block_network: bool
    ports: tuple[int, ...]


def plan(spec: SandboxSpec) -> Plan:
    """Decide what will be applied. Nothing has been created yet.

    Raises:
        UnsupportedError: The spec demands what Modal cannot do.
    """
    if spec.ports and spec.network.mode == "none":
        raise UnsupportedError(
            f"ports={spec.ports!r} cannot be had with network='none': Modal gives no public "
            "address to a sandbox without a network. Add network='open', or use "
            "sandbox.ports.forward(), which needs neither.",
            op="create",
            provider=PROVIDER,
        )
    differences = list(_differences(spec))
    cpu = max(spec.resources.cpu, _SMALLEST_CPU)
    return Plan(
        effective=Effective(
            image=spec.image or "debian",
            cpu=cpu,
            memory_gib=spec.resources.memory_gib,
            network=spec.network.mode,
            user=spec.user or USER,
            workdir=spec.workdir,
            isolation="gvisor",
        ),
        differences=tuple(differences),
        amount=_amount(cpu, spec.resources.memory_gib),
        timeout=min(math.ceil(spec.lifetime_s or LONGEST_S) + _START_S, LONGEST_S),
        block_network=spec.network.mode == "none",
        ports=spec.ports,
    )


def _amount(cpu: float, memory_gib: float) -> Amount:
    # The SDK cuts off what is below a thousandth of a core, also a binary fraction's error.
    cores = cpu / _VCPUS + 1e-6
    mib = round(memory_gib * 1024)
    return Amount((cores, cores), (mib, mib))


def _differences(spec: SandboxSpec) -> Iterator[Difference]:
    """What is not as it is wished.

    Raises:
        UnsupportedError: It is not only wished.
    """
    if spec.lifetime_s is None:
        reason = "Modal ends every sandbox after 24 hours"
        yield Difference("lifetime_s", None, float(LONGEST_S), reason)
    elif spec.lifetime_s > LONGEST_S:
        reason = "Modal ends every sandbox after 24 hours; snapshot it, and start another"
        yield _unmet(spec, "lifetime_s", spec.lifetime_s, float(LONGEST_S), reason)
    if spec.resources.cpu < _SMALLEST_CPU:
        reason = "the least that Modal gives is an eighth of a physical core"
        yield _unmet(spec, "resources.cpu", spec.resources.cpu, _SMALLEST_CPU, reason)


def _unmet(spec: SandboxSpec, field: str, wanted: float, applied: float, reason: str) -> Difference:
    if spec.strict:
        raise UnsupportedError(
            f"{field}={wanted:g} cannot be had: {reason}; strict=False takes {applied:g} instead",
            op="create",
            provider=PROVIDER,
        )
    return Difference(field, wanted, applied, reason)
