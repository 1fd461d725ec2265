"""Version 0 of Daytona's API: one program in a sandbox, which is a session with one command."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.errors import SandboxError
from sandboxkit.providers.daytona.client import CALL_S, Client
from sandboxkit.providers.daytona.failures import map_errors

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse
    from daytona import AsyncSandbox

INPUT_S: Final = 60.0
"""Seconds that a program may take to read what is sent, once the 64 KiB before it are full."""
_HEARTBEAT_S: Final = 20.0


class Program:
    """A session with one command in it: one program and its streams."""

    def __init__(self, client: Client, sandbox: AsyncSandbox, session: str, command: str) -> None:
        self.sandbox_id = sandbox.id
        self._client = client
        self._sandbox = sandbox
        self._session = session
        self._command = command

    async def send(self, text: str) -> None:
        """Write whole lines to its stdin; returns when they have been written."""
        await self._client.call(
            "input",
            lambda _sdk: self._sandbox.process.send_session_command_input(
                self._session, self._command, text
            ),
            deadline_s=INPUT_S,
            sandbox_id=self.sandbox_id,
        )

    async def exit_code(self) -> int | None:
        """Its exit code as a shell counts, or None while it runs."""
        found = await self._client.call(
            "wait",
            lambda _sdk: self._sandbox.process.get_session_command(self._session, self._command),
            sandbox_id=self.sandbox_id,
        )
        return found.exit_code

    async def log(self) -> ClientWebSocketResponse:
        """Its output from the very beginning, as it comes, marked line by line."""
        url = (
            f"{self._sandbox.toolbox_proxy_url}/{self.sandbox_id}/process/session/{self._session}"
            f"/command/{self._command}/logs?follow=true"
        )
        http = await self._client.http()
        with map_errors("output", url, self.sandbox_id), anyio.fail_after(CALL_S):
            return await http.ws_connect(url, heartbeat=_HEARTBEAT_S, max_msg_size=0)

    async def end(self) -> None:
        """End it with all that it started in its group, and forget its log."""
        with contextlib.suppress(SandboxError):
            await self._client.call(
                "end", lambda _sdk: self._sandbox.process.delete_session(self._session)
            )

    def abandon(self) -> None:
        """`end`, without waiting for it: the service gives what runs 5 s to end by itself."""
        self._client.background(self.end())
