"""How a session is: its machine and guest, its agent, and the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sandboxkit.health import Health, HealthPart, bounded, nothing_there

if TYPE_CHECKING:
    from sandboxkit.gateway.model.account import Account
    from sandboxkit.gateway.model.meter import ModelCall
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session.dialogue import Dialogue
    from sandboxkit.session.states import SessionState

_REFUSED_KEY: Final = frozenset({401, 403})
_NO_MACHINE: Final = {
    "new": "the session has not been entered yet",
    "creating": "it is being made",
    "saved": "the session is saved, and has no machine",
    "failed": "it was lost, or could not be made",
    "closed": "the session has been closed",
}


async def session_health(
    sandbox: Sandbox | None,
    dialogue: Dialogue,
    account: Account,
    state: SessionState,
    *,
    deadline_s: float,
) -> Health:
    """How it is now; see `Session.health`."""
    gone = state in {"closed", "saved"} or sandbox is None
    if gone or sandbox is None:
        why = _NO_MACHINE.get(state, "there is none")
        health = nothing_there(why)
        if state == "failed":
            health = replace(health, machine=HealthPart("ill", why))
        return replace(health, agent=HealthPart("absent", why), gateway=HealthPart("absent", why))
    below, ports = await asyncio.gather(
        sandbox.health(deadline_s=deadline_s),
        bounded(_listening(sandbox, account), deadline_s),
    )
    agent = _agent(dialogue, state)
    if below.machine.state == "paused":
        agent = HealthPart("paused", "with its machine")
    return replace(below, agent=agent, gateway=_gateway(ports, below.guest, sandbox, account))


def _agent(dialogue: Dialogue, state: SessionState) -> HealthPart:
    """Whether it lives, as the host knows without asking it anything."""
    conversation, now = dialogue.conversation, time.monotonic()
    if conversation is None:
        if state == "creating":
            return HealthPart("absent", "it is being started")
        if state == "failed":
            return HealthPart("ill", "it was lost with its machine")
        return HealthPart("warn", "it does not run; the next prompt starts it")
    condition, began = conversation.condition(), dialogue.turn_began
    details: dict[str, object] = {"turn": dialogue.turns if began is not None else None}
    if condition.heard_at is not None:
        details["silent_s"] = now - max(condition.heard_at, began or 0.0)
    if condition.ended is not None:
        return HealthPart("ill", f"it has ended: {condition.ended}", details=details)
    if began is None:
        return HealthPart("ok", "waits for a prompt", details=details)
    details["turn_s"] = now - began
    silent = details.get("silent_s")
    said = f"at a prompt for {now - began:.0f} s"
    if isinstance(silent, float):
        said += f", silent for {silent:.0f} s"
    return HealthPart("ok", said, details=details)


async def _listening(sandbox: Sandbox, account: Account) -> HealthPart:
    """Whether what the gateway has on this machine takes connections."""
    ports = {f"model on port {one.port}": one.port for one in account.routes}
    way_out = sandbox.network.ports
    if way_out is not None:
        ports[f"way out on port {way_out[0]}"] = way_out[0]
    if not ports:
        return HealthPart("absent", "nothing is open: the agent does not run")
    began = time.monotonic()
    for name, port in ports.items():
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            return HealthPart("ill", f"the {name} takes no connection: {error.strerror or error}")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return HealthPart("ok", "", time.monotonic() - began)


def _gateway(
    local: HealthPart, guest: HealthPart, sandbox: Sandbox, account: Account
) -> HealthPart:
    """The same, with the tunnels into the sandbox and what the model has last said."""
    details: dict[str, object] = {"requests": account.meter.total.requests}
    calls = account.meter.calls
    failed = next((one for one in reversed(calls) if _failure(one)), None)
    if failed is not None:
        details["last_error"] = _said(failed)
    part = replace(local, details=details)
    if local.state != "ok":
        return part
    inside = [one.port_inside for one in account.routes if one.port_inside is not None]
    if sandbox.network.ports is not None:
        inside.append(sandbox.network.ports[1])
    listening = guest.details.get("listening")
    if guest.state == "ok" and isinstance(listening, list):
        closed = [port for port in inside if port not in listening]
        if closed:
            return replace(part, state="ill", reason=f"no tunnel on port {closed[0]} in it")
    if calls and _is_outage(calls[-1]):
        return replace(part, state="ill", reason=f"the model does not serve: {_said(calls[-1])}")
    return part


def _failure(call: ModelCall) -> bool:
    return call.status >= 400


def _is_outage(call: ModelCall) -> bool:
    """Whether it says that the next request fails as well; a limit or a bad request does not."""
    refused_by_us = call.refused is not None and call.status != 502
    return (call.status in _REFUSED_KEY or call.status >= 500) and not refused_by_us


def _said(call: ModelCall) -> str:
    age = time.monotonic() - call.began
    return f"{call.refused or f'status {call.status}'} ({age:.0f} s ago)"
