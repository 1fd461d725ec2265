"""A spec against what a backend can do: refused, recorded, or let through."""

from __future__ import annotations

from sandboxkit.errors import InvalidSpecError, UnsupportedError
from sandboxkit.providers.base import Capabilities, Difference
from sandboxkit.spec import SESSION_LABEL, NetworkPolicy, Resources, SandboxSpec


def at_backend(policy: NetworkPolicy) -> str:
    """The network mode that the backend must enforce: none where the gateway is the way out."""
    return "none" if policy.by_gateway else policy.mode


def for_backend(spec: SandboxSpec) -> SandboxSpec:
    """The spec as the backend gets it."""
    if not spec.network.by_gateway:
        return spec
    return spec.model_copy(update={"network": NetworkPolicy.none()})


def admit(spec: SandboxSpec, can: Capabilities, provider: str) -> tuple[Difference, ...]:
    """Check a spec before anything is created.

    Returns:
        The wishes (defaults, or any value where `spec.strict` is off) that the backend
        does not fulfil.

    Raises:
        UnsupportedError: A demand that the backend cannot fulfil; it names the
            backend, the field, and what the backend can do. A list of hosts that cannot be
            kept is refused whether `spec.strict` is on or off.
    """
    differences: list[Difference] = []

    def unmet(field: str, wanted: object, reason: str, *, demanded: bool) -> None:
        listed = (field, wanted) == (
            "network",
            "allow",
        )  # a list that does not hold is worse than none
        if demanded and (spec.strict or listed):
            advice = "" if listed else "; strict=False takes what there is instead"
            raise UnsupportedError(
                f"{field}={wanted!r} cannot be had: {reason}{advice}",
                op="create",
                provider=provider,
            )
        differences.append(Difference(field, wanted, None, reason))

    for name in Resources.model_fields:
        if name not in can.limits | can.limits_at_create:
            field = f"resources.{name}"
            can_do = ", ".join(sorted(can.limits)) or "no limit"
            reason = f"{provider} enforces {can_do}, not {name}"
            unmet(field, getattr(spec.resources, name), reason, demanded=spec.demands(field))
    mode, needed = spec.network.mode, at_backend(spec.network)
    if needed not in can.network:
        reason = f"{provider} has the network modes {', '.join(sorted(can.network)) or '(none)'}"
        if spec.network.native:
            reason = f"{provider} has no filter of its own that keeps such a list exactly; "
            reason += "without native=True the gateway keeps it, on every backend"
        elif spec.network.by_gateway:
            reason += ", and cannot take the network away, which is what a list stands on"
        unmet("network", mode, reason, demanded=spec.demands("network"))
    for field, supported in (("runtime", can.runtimes), ("image", can.images)):
        wanted = getattr(spec, field)
        if wanted is not None and not supported:
            unmet(field, wanted, f"{provider} has no choice of {field}", demanded=True)
    check_sleep(spec, can, provider)
    if spec.ports and not can.expose:
        reason = f"{provider} exposes no ports; sandbox.ports.forward() needs no declaration"
        unmet("ports", spec.ports, reason, demanded=True)
    return tuple(differences)


def check_sleep(spec: SandboxSpec, can: Capabilities, provider: str) -> None:
    """Refuse a way to put it to sleep that cannot be had; whether `strict` is on or off.

    Raises:
        InvalidSpecError: There is no session that would do it.
        UnsupportedError: The backend cannot.
    """
    how = spec.on_idle
    if how == "destroy":
        return
    if SESSION_LABEL not in spec.labels:
        raise InvalidSpecError(
            f"on_idle={how!r} is what a session does, which wakes it again: give it to "
            "Session(...). A sandbox alone can be paused, or snapshot, by its own methods."
        )
    if (how == "pause" and not can.pause) or (how == "snapshot" and not can.snapshot):
        others = [each for each in ("pause", "snapshot") if getattr(can, each)]
        raise UnsupportedError(
            f"on_idle={how!r} cannot be had: {provider} cannot {how} a sandbox; it can "
            f"{', '.join(['destroy', *others])}, and save where the session has a store",
            op="create",
            provider=provider,
        )
