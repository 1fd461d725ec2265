"""The real MCP client, with the real command as its server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import anyio
from anyio import to_thread
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent

from tests.cli.command import SANDBOXKIT, TIMEOUT_S, Cli

_WITH_PID = 'echo $$ > "$0"; exec "$@"'


class Client:
    """A client and its server.

    Attributes:
        session: The client.
        progress: What the server has told of calls under way.
    """

    def __init__(self, session: ClientSession, cli: Cli) -> None:
        self.session = session
        self.progress: list[str] = []
        self._cli = cli

    async def call(self, name: str, /, **arguments: Any) -> CallToolResult:
        async def heard(progress: float, total: float | None, message: str | None) -> None:
            self.progress.append(message or "")

        result = await self.session.call_tool(name, arguments, progress_callback=heard)
        assert isinstance(result, CallToolResult)
        return result

    async def get(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """The fields of a result that is no error."""
        result = await self.call(name, **arguments)
        assert not result.is_error, text_of(result)
        fields: dict[str, Any] = result.structured_content
        return fields

    async def fail(self, name: str, /, **arguments: Any) -> str:
        """What is said of an error."""
        result = await self.call(name, **arguments)
        assert result.is_error, text_of(result)
        assert "Traceback" not in text_of(result)
        return text_of(result)

    async def sh(self, line: str) -> str:
        """What a line of shell prints."""
        return str((await self.get("exec", command=line))["stdout"])

    @property
    def pid(self) -> int:
        """The server's."""
        return int((self._cli.cwd / "pid").read_text())


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def log_path(cli: Cli) -> Path:
    """What the server writes to stderr."""
    return cli.cwd / "log"


def parameters(cli: Cli, *options: str, **variables: str) -> StdioServerParameters:
    return StdioServerParameters(
        command="/bin/sh",
        args=["-c", _WITH_PID, str(cli.cwd / "pid"), *SANDBOXKIT, "mcp", *options],
        env=cli.env(**variables),
        cwd=cli.cwd,
    )


@contextlib.asynccontextmanager
async def served(cli: Cli, *options: str, **variables: str) -> AsyncGenerator[Client]:
    """Start `sandboxkit mcp`; leaving the block closes its stdin."""
    server = parameters(cli, *options, **variables)
    try:
        with log_path(cli).open("w") as log:
            async with stdio_client(server, errlog=log) as (incoming, outgoing):
                async with ClientSession(incoming, outgoing) as session:
                    with anyio.fail_after(TIMEOUT_S):
                        await session.initialize()
                        yield Client(session, cli)
    except ExceptionGroup as group:  # of the client's task groups, one in the other
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    inner = cast("tuple[BaseException, ...]", getattr(error, "exceptions", ()))
    return _first(inner[0]) if inner else error


async def ids(cli: Cli) -> list[str]:
    return await to_thread.run_sync(cli.ids)


async def until_gone(cli: Cli) -> None:
    """Wait until this owner has no sandbox."""
    with anyio.fail_after(TIMEOUT_S):
        while await ids(cli):
            await anyio.sleep(0.1)
