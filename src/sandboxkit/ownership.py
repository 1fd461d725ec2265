"""Whose sandbox it is: labels that are set in the creating call itself."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import socket
from datetime import UTC, datetime, timedelta
from functools import cache

from sandboxkit.spec import (
    CREATED_LABEL,
    EXPIRES_LABEL,
    IDLE_LABEL,
    KEY_LABEL,
    LEASE_LABEL,
    NETWORK_LABEL,
    OWNER_LABEL,
    SESSION_LABEL,
    SandboxSpec,
)


@cache
def owner() -> str:
    """Who creates sandboxes here: `SANDBOXKIT_OWNER`, or user and machine."""
    given = os.environ.get("SANDBOXKIT_OWNER")
    try:
        name = given or f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name
        name = f"{os.getuid()}@{socket.gethostname()}"
    return re.sub(r"[^A-Za-z0-9_.@-]", "-", name)[:63]


def owned(spec: SandboxSpec) -> SandboxSpec:
    """The spec with a fresh key and our labels added to the caller's."""
    now = datetime.now(UTC)
    labels = {
        **spec.labels,
        OWNER_LABEL: owner(),
        KEY_LABEL: f"sandboxkit-{secrets.token_hex(6)}",
        CREATED_LABEL: now.isoformat(timespec="seconds"),
        LEASE_LABEL: f"{spec.lease_s:g}",
    }
    if spec.network.by_gateway:
        labels[NETWORK_LABEL] = spec.network.mode
    if spec.on_idle != "destroy":
        labels[IDLE_LABEL] = spec.on_idle
    if spec.lifetime_s is not None:
        expires = now + timedelta(seconds=spec.lifetime_s)
        labels[EXPIRES_LABEL] = expires.isoformat(timespec="seconds")
    return spec.model_copy(update={"labels": labels})


def for_session(spec: SandboxSpec, session: str) -> SandboxSpec:
    """The spec of a sandbox that is made for a session."""
    return spec.model_copy(update={"labels": {**spec.labels, SESSION_LABEL: session}})
