"""What a client is told that gets no answer from the host that it asked for."""

from __future__ import annotations

import http
import json
import re
from collections.abc import Sequence

_SHOWN = 50  # entries of the allow-list in one answer


class Refusal(Exception):
    """A request that is not carried on, and why.

    Args:
        status: The HTTP status that says it.
        kind: A word for programs, such as `network_policy`.
        message: What is refused and why, for people and agents.
        host: The host that was asked for; empty if there was none.
        port: Likewise, 0.
        allowed: Whether the policy allowed it, and it failed for another reason.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        host: str = "",
        port: int = 0,
        allowed: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.host, self.port, self.allowed = host, port, allowed

    def answer(self, allowed_hosts: Sequence[str] = ()) -> bytes:
        """The whole HTTP answer, after which the connection ends.

        Many clients show only the status line of a proxy: it says the most important.
        """
        forbidden = self.kind == "network_policy"
        error: dict[str, object] = {"type": self.kind, "message": self.message}
        if self.host:
            error |= {"host": self.host, "port": self.port}
        if forbidden:
            error |= {
                "allowed": list(allowed_hosts[:_SHOWN]),
                "retry": False,
                "advice": "This sandbox's network policy refuses it, and will refuse it again: "
                "do not retry. Use an allowed host, or ask the user to allow this one.",
            }
        body = json.dumps({"error": error}).encode() + b"\n"
        phrase = http.HTTPStatus(self.status).phrase
        if forbidden:
            phrase += f" by the network policy: {self.message}; do not retry"
        head = [
            f"HTTP/1.1 {self.status} {printable(phrase, 300)}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        if self.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            head.append('Proxy-Authenticate: Basic realm="sandboxkit"')
        return "\r\n".join([*head, "", ""]).encode("ascii") + body


def forbidden(message: str, host: str, port: int) -> Refusal:
    """A refusal by the network policy."""
    return Refusal(403, "network_policy", message, host=host, port=port)


def printable(text: str, longest: int = 100) -> str:
    """What someone sent, made fit for a message: ASCII, one line, not too long."""
    shown = re.sub(r"[^\x20-\x7e]", "?", text)
    return shown if len(shown) <= longest else shown[:longest] + "..."
