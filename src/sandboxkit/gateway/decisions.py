"""What the egress proxy decided, for the caller to see."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """One request to leave the sandbox, allowed or refused.

    Paths, queries, headers and bodies are no part of it: they may hold secrets.

    Attributes:
        at: When, in UTC.
        method: `CONNECT`, the method of a plain HTTP request, or `TLS` for what was
            decided once a tunnel's first bytes had been seen.
        host: The canonical host; as it was written, with what is not printable escaped,
            where it has no canonical form.
        port: The port; 0 where none could be read.
        allowed: Whether it may.
        reason: Why not, or what went wrong afterwards; empty if all went well.
        address: The address that was checked and is connected to; None if there is none.
    """

    at: datetime
    method: str
    host: str
    port: int
    allowed: bool
    reason: str = ""
    address: str | None = None


class Log:
    """The last decisions, and whoever wants to hear of each.

    Args:
        keep: How many are kept.
        tell: Called with each decision, on the event loop. What it raises is logged.
    """

    def __init__(self, keep: int, tell: Callable[[Decision], None] | None) -> None:
        self.kept: deque[Decision] = deque(maxlen=keep)
        self._tell = tell

    def add(
        self,
        method: str,
        host: str,
        port: int,
        *,
        allowed: bool,
        reason: str = "",
        address: str | None = None,
    ) -> None:
        """Keep a decision, and tell."""
        decision = Decision(datetime.now(UTC), method, host, port, allowed, reason, address)
        self.kept.append(decision)
        if self._tell is None:
            return
        try:
            self._tell(decision)
        except Exception:
            log.exception("on_decision failed")
