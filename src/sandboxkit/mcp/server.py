"""The server: calls of tools, their progress, and what an agent is told when one fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

import sandboxkit
from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import CapacityError, SandboxError
from sandboxkit.mcp import commands, files, place
from sandboxkit.mcp.machine import GONE, Machine
from sandboxkit.mcp.share import Share
from sandboxkit.mcp.stdio import standard_streams
from sandboxkit.mcp.tool import Tool

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.1
_OFTEN_S: Final = 0.5  # between two words of progress at least
_NEWS_S: Final = 5.0  # at most, also where there is nothing new

Context = ServerRequestContext[Any, Any]


async def serve(
    machine: Machine, *, instructions: str, open_world: bool, share: Share | None = None
) -> None:
    """Serve one client over stdin and stdout, until it closes stdin; then end the sandbox.

    Args:
        machine: Holds the sandbox.
        instructions: What a model is told of all the tools.
        open_world: Whether the sandbox may reach the world.
        share: A directory to copy from and to.
    """
    tools = tools_of(machine, share)
    calls = Calls(machine, tools)

    async def list_tools(
        _: Context, __: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[tool.described(open_world=open_world) for tool in tools]
        )

    server = Server[dict[str, Any]](
        "sandboxkit",
        version=sandboxkit.__version__,
        instructions=instructions,
        on_list_tools=list_tools,
        on_call_tool=calls.answer,
    )
    try:
        async with standard_streams() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await machine.aclose()


def tools_of(machine: Machine, share: Share | None) -> tuple[Tool, ...]:
    """The tools that fit: no new sandbox where it is somebody else's."""
    return (
        *commands.TOOLS,
        *files.TOOLS,
        *place.TOOLS,
        *(() if machine.attached else (place.RESTART,)),
        *(() if share is None else share.tools()),
    )


class Calls:
    """Answers calls of tools."""

    def __init__(self, machine: Machine, tools: Sequence[Tool]) -> None:
        self._machine = machine
        self._tools = {tool.name: tool for tool in tools}

    async def answer(
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Call a tool; a failure is an answer that the agent can act on."""
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(code=types.INVALID_PARAMS, message=f"there is no tool {params.name!r}")
        try:
            arguments = tool.arguments.model_validate(params.arguments or {})
        except ValidationError as error:
            return _failed(f"{params.name}: {_described(error)} (invalid_arguments)")
        telling = asyncio.ensure_future(self._tell(context))
        try:
            return await self._run(tool, arguments)
        finally:
            await cancel_and_wait(telling)

    async def _run(self, tool: Tool, arguments: object) -> types.CallToolResult:
        life = self._machine.current
        try:
            result = await tool.run(self._machine, arguments)
        except SandboxError as error:
            if isinstance(error, GONE):
                # If there was none before, the one that is there now was made for this call.
                await self._machine.lost(error, life or self._machine.current)
            return _failed(self._advised(error))
        except OSError as error:  # of this machine: a full disk, a file that may not be read
            return _failed(str(error))
        except Exception as error:
            log.exception("the tool %s failed", tool.name)
            return _failed(
                f"an error inside sandboxkit ({type(error).__name__}); its log says more, and "
                "the same call will hardly do better"
            )
        return types.CallToolResult(
            content=result.blocks(), structured_content=result.model_dump(mode="json")
        )

    def _advised(self, error: SandboxError) -> str:
        advice = ""
        if isinstance(error, GONE) and self._machine.ended:
            advice = (
                " All that was in it is lost: files, processes, forwarded ports. Call `restart` "
                "for a fresh, empty one."
            )
        elif isinstance(error, GONE):
            advice = " What ran has an unknown outcome; the next call tries again."
        elif isinstance(error, CapacityError) and error.retry_after_s is not None:
            advice = f" Try again in {error.retry_after_s:.0f} s."
        elif error.retryable:
            advice = " The same call may succeed later."
        return f"{error.message.rstrip('.')} ({error.code}).{advice}"

    async def _tell(self, context: Context) -> None:
        """Tell a client that listens how far the call is, so that it does not give up."""
        began = time.monotonic()
        said, at = "", -_NEWS_S
        while True:
            await anyio.sleep(_LOOK_S)  # most calls are over by then
            step, passed = self._machine.step, time.monotonic() - began
            if passed - at >= (_OFTEN_S if step != said else _NEWS_S):
                said, at = step, passed
                await context.session.report_progress(passed, None, f"{step}, {passed:.0f} s")


def _failed(text: str) -> types.CallToolResult:
    shown = text.encode("utf-8", "replace").decode()  # a file's name may be no UTF-8
    return types.CallToolResult(content=[types.TextContent(text=shown)], is_error=True)


def _described(error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"])
        lines.append(f"{name}: {problem['msg']}" if name else problem["msg"])
    return "; ".join(lines)
