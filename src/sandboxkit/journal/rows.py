"""What the journal says of one sandbox, or of an image that was made of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sandboxkit.journal.moments import Moment

IMAGE: Final = "image "
"""What the key of an image begins with; its name follows."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody who wants the sandbox.

    Attributes:
        token: What tells it from others: one `Sandbox` object has one.
        holder: The process, by the name of its lock; empty where nobody holds it, and it
            shall live on until `until` all the same.
        pid: The process's number, for messages.
        machine: Its machine's name.
        until: When its lease ends, unless it is renewed.
        alive: Whether the process lives; None where that cannot be known from here.
    """

    token: str
    holder: str
    pid: int
    machine: str
    until: Moment
    alive: bool | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One sandbox, from the intent on.

    Attributes:
        key: Its key, chosen before the backend was asked; or see `IMAGE`.
        provider: The backend's name.
        account: `SandboxProvider.account()`.
        id: The backend's id, once it is known.
        owner: Whose it is.
        session: The session's id; empty without one.
        created: When the intent was written, by the wall clock, in seconds since 1970.
        lease_s: Its lease.
        ended: When it had ended, likewise; None while that is not known.
        holds: Who wants it.
    """

    key: str
    provider: str
    account: str
    id: str | None
    owner: str
    session: str
    created: float
    lease_s: float
    ended: float | None = None
    holds: tuple[Hold, ...] = ()
