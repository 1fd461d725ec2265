"""What the SDK must go through before it can take the place of another host's.

Its first request, `initialize`, has been answered long ago, and the answer to another would
stand behind all that waits to be read; so it is answered out of the note. And the MCP servers
on this host have never been greeted: the CLI did that when it began, with the servers of the
host before. So they are greeted here in its name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import anyio
from mcp.types import LATEST_PROTOCOL_VERSION

_ANSWER_S: Final = 10.0
_PREFIX: Final = "sandboxkit-greeting-"
_INFO: Final = {"name": "claude-code", "version": "sandboxkit"}
_HELLO: Final[dict[str, Any]] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": LATEST_PROTOCOL_VERSION,
        "capabilities": {},
        "clientInfo": _INFO,
    },
}
_READY: Final[dict[str, Any]] = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Joining:
    """The first messages of a CLI that runs already, made up on this host.

    Args:
        answer: What the CLI had answered to `initialize`.
        servers: The names of the MCP servers on this host.
    """

    def __init__(self, answer: dict[str, Any], servers: Iterable[str]) -> None:
        self._answer = answer
        self._servers = tuple(servers)
        self._asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._greeted = asyncio.Event()
        self._over = False

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What the SDK reads first."""
        request_id = await self._asked
        response = {"subtype": "success", "request_id": request_id, "response": self._answer}
        yield {"type": "control_response", "response": response}
        for name in self._servers:
            for number, message in enumerate((_HELLO, _READY)):
                self._greeted.clear()
                request = {"subtype": "mcp_message", "server_name": name, "message": message}
                request_id = f"{_PREFIX}{number}"
                yield {"type": "control_request", "request_id": request_id, "request": request}
                with anyio.move_on_after(_ANSWER_S):
                    await self._greeted.wait()
        self._over = True

    def takes(self, data: str) -> bool:
        """Whether what the SDK writes is meant for this, and not for the CLI."""
        if self._over:
            return False
        message: dict[str, Any] = json.loads(data)
        if message.get("request", {}).get("subtype") == "initialize":
            if not self._asked.done():
                self._asked.set_result(str(message.get("request_id")))
            return True
        if str(message.get("response", {}).get("request_id")).startswith(_PREFIX):
            self._greeted.set()
            return True
        return False
