"""The emulated E2B as a whole: a server in the emulator's thread."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.emulators.e2b.account import Account
from tests.emulators.e2b.app import application
from tests.emulators.e2b.templates import Templates
from tests.emulators.emulator import Emulator

_LOOK_S: Final = 0.01
_LEAVE_S: Final = 5  # for requests that are still under way at the end


class _Protocol(H11Protocol):
    """Tells the application which connection a request came by, so that it can break it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class E2BEmulator(Emulator):
    """E2B, as far as the unmodified `e2b` package asks for it.

    Attributes:
        account: What the one customer has: limits, sandboxes, templates.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.key = f"e2b_{secrets.token_hex(20)}"
        self.account: Account
        self._templates: Templates
        self._server: uvicorn.Server
        self._serving: asyncio.Task[None]

    def environment(self) -> dict[str, str]:
        """The variables that point the SDK here, for the REST API and for the sandboxes."""
        return {"E2B_API_URL": self.url, "E2B_SANDBOX_URL": self.url, "E2B_API_KEY": self.key}

    def sandboxes(self) -> set[str]:
        """The ids of all sandboxes, paused ones and those being created too."""
        return {*list(self.account.sandboxes)}  # a list in one step: this is another thread

    async def end(self, sandbox_id: str) -> None:
        """End a sandbox as its life-time, or somebody else, would."""
        await self.account.kill(sandbox_id)

    async def rest(self, sandbox_id: str, seconds: float) -> None:
        """Nothing comes of it: only the time-out counts, whatever is asked."""

    async def serve(self) -> str:
        """Start to listen; returns the URL."""
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.account = Account(self.machines)
        self._templates = Templates(self.account, url)
        config = uvicorn.Config(
            application(self.account, self._templates, self.faults, self.key),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=600,
            timeout_graceful_shutdown=_LEAVE_S,
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(_LOOK_S)
        if self._serving.done():
            await self._serving
        return url

    async def shut(self) -> None:
        """End all sandboxes, which ends their streams; then stop to listen."""
        await self.account.aclose()
        self._templates.close()
        self._server.should_exit = True
        await self._serving
