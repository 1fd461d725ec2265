"""What one session may take of the host through the egress proxy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one `Egress`; each connection beyond them is refused or ended.

    Attributes:
        connections: Connections at once; more are answered 503.
        head_bytes: Bytes of a request's or an answer's head, and of what is kept in
            memory of a body, per direction.
        head_fields: Header fields of a request.
        head_s: Seconds for a whole head, or a whole TLS handshake.
        idle_s: Seconds without a byte in either direction after which a connection ends.
        resolve_s: Seconds to resolve a name.
        connect_s: Seconds to connect to one address.
        decisions: How many past decisions are kept.
    """

    connections: int = 256
    head_bytes: int = 64 * 1024
    head_fields: int = 128
    head_s: float = 30.0
    idle_s: float = 600.0
    resolve_s: float = 10.0
    connect_s: float = 10.0
    decisions: int = 1000
