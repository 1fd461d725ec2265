"""What is known of one sandbox: what was asked for, and what really holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

State = Literal["creating", "running", "paused", "stopped", "unknown"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the backend does not do as the spec's default wishes.

    Attributes:
        field: The spec's field, such as `resources.disk_gib`.
        wanted: The value in the spec.
        applied: What holds instead.
        reason: Why, in a sentence.
    """

    field: str
    wanted: object
    applied: object
    reason: str


@dataclass(frozen=True, slots=True)
class Effective:
    """What was really applied. None means: not limited, or not known."""

    image: str | None = None
    cpu: float | None = None
    memory_gib: float | None = None
    disk_gib: float | None = None
    pids: int | None = None
    network: str | None = None
    user: str | None = None
    workdir: str | None = None
    runtime: str | None = None
    isolation: str | None = None


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """What is known of a sandbox.

    Attributes:
        id: The backend's id, for `attach`.
        provider: The backend's name.
        state: Its state when this was made.
        labels: All labels, ours (`sandboxkit.*`) among them.
        created_at: When it was created, aware, UTC; None where not known.
        effective: What was really applied.
        differences: Where that is not what the spec wished.
        guest: Whether the guest serves it; False is the fallback for images
            without Python; None before anyone has asked.
        expires_at: When its life-time ends, aware, UTC, by this machine's clock, as the guest
            counts it and `Sandbox.extend` puts it off; None where it has no end, or nobody
            is connected. The label `sandboxkit.expires` stays as it was created.
    """

    id: str
    provider: str
    state: State = "unknown"
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    created_at: datetime | None = None
    effective: Effective = Effective()
    differences: tuple[Difference, ...] = ()
    guest: bool | None = None
    expires_at: datetime | None = None
