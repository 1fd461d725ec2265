"""How the emulated Daytona says no: the error envelope of its API, proxy and daemon."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aiohttp import web

API, DAEMON, PROXY = "DAYTONA_API", "DAYTONA_DAEMON", "DAYTONA_PROXY"

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    410: "GONE",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_SERVER_ERROR",
    502: "BAD_GATEWAY",
    503: "SERVICE_UNAVAILABLE",
    504: "GATEWAY_TIMEOUT",
}
# Which of the service's counters an operation belongs to; the rest is `authenticated`.
_COUNTERS = {
    "create": "sandbox-create",
    "destroy": "sandbox-lifecycle",
    "pause": "sandbox-lifecycle",
    "resume": "sandbox-lifecycle",
    "snapshot": "sandbox-lifecycle",
}


class Refused(Exception):
    """A request is answered with an error.

    Args:
        status: HTTP's.
        message: For people.
        code: For programs; the default is the name of the status.
        source: Which part of the service speaks.
        headers: Beside those of every answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        source: str = API,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self._body = {
            "statusCode": status,
            "message": message,
            "code": code or _CODES.get(status, "ERROR"),
            "source": source,
        }
        self._headers = dict(headers or {})

    def answer(self) -> web.Response:
        """The envelope."""
        return web.json_response(self._body, status=self.status, headers=self._headers)


def too_many(op: str, retry_after: float | None) -> Refused:
    """The answer of a rate limit, whose headers carry the counter's name."""
    counter = _COUNTERS.get(op, "authenticated")
    headers = {f"X-RateLimit-Limit-{counter}": "300", f"X-RateLimit-Remaining-{counter}": "0"}
    if retry_after is not None:
        headers[f"Retry-After-{counter}"] = str(math.ceil(retry_after))
        headers[f"X-RateLimit-Reset-{counter}"] = str(math.ceil(retry_after))
    return Refused(429, "ThrottlerException: Too Many Requests", headers=headers)


def sandbox_not_found(wanted: str) -> Refused:
    """There is no sandbox of this id or name."""
    return Refused(404, f"Sandbox with ID or name {wanted} not found")
