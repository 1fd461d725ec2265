"""All tools of a session, and how several calls of one answer are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import anyio

from sandboxkit.agents.messages.tools.tool import Block, SandboxTool, Tool, ToolFailed, ToolOutput
from sandboxkit.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Toolbox:
    """The tools of one session.

    Args:
        sandbox_tools: Those that work in the sandbox.
        tools: Those of the caller.
        others: Definitions of tools that the service itself runs.
    """

    def __init__(
        self,
        sandbox_tools: Sequence[SandboxTool] = (),
        tools: Sequence[Tool] = (),
        others: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._inside = {str(tool.definition()["name"]): tool for tool in sandbox_tools}
        self._own = {tool.name: tool for tool in tools}
        self.definitions: list[Block] = [
            *(tool.definition() for tool in sandbox_tools),
            *(tool.definition() for tool in tools),
            *(dict(other) for other in others),
        ]

    async def run(self, calls: Sequence[Block], done: Callable[[Block, ToolOutput], None]) -> None:
        """Run the calls of one answer.

        Those in the sandbox run one after the other, in their order, since one may need what
        another has done; those of the caller run at once, beside them.

        Args:
            calls: Blocks of type `tool_use`.
            done: Called with each call that has ended, and what it gave back.

        Raises:
            SandboxError: The sandbox is lost.
        """
        lost: list[SandboxError] = []
        in_order = [call for call in calls if call["name"] in self._inside]

        async with anyio.create_task_group() as group:

            async def work(mine: Sequence[Block]) -> None:
                try:
                    for call in mine:
                        done(call, await self._output(call))
                except SandboxError as error:
                    lost.append(error)
                    group.cancel_scope.cancel()

            group.start_soon(work, in_order)
            for call in calls:
                if call["name"] not in self._inside:
                    group.start_soon(work, [call])
        if lost:
            raise lost[0]

    async def _output(self, call: Block) -> ToolOutput:
        name, arguments = str(call["name"]), call["input"]
        inside, own = self._inside.get(name), self._own.get(name)
        try:
            if not isinstance(arguments, dict):
                raise ToolFailed("The arguments are not an object.")
            arguments = cast("dict[str, Any]", arguments)
            if inside is not None:
                return await inside.run(arguments)
            if own is not None:
                return await _of_the_caller(own, arguments)
            known = ", ".join([*self._inside, *self._own]) or "none"
            raise ToolFailed(f"There is no tool {name}; there are: {known}.")
        except ToolFailed as error:
            return ToolOutput(str(error), is_error=True)

    async def aclose(self) -> None:
        """End what the tools have running. Idempotent."""
        async with AsyncExitStack() as stack:
            for tool in self._inside.values():
                stack.push_async_callback(tool.aclose)


async def _of_the_caller(tool: Tool, arguments: Mapping[str, Any]) -> ToolOutput:
    try:
        said = await tool.run(arguments)
        return ToolOutput(said if isinstance(said, str) else [dict(block) for block in said])
    except Exception as error:  # noqa: BLE001 - whatever it was, it is the model's to handle
        return ToolOutput(f"{tool.name} failed: {type(error).__name__}: {error}", is_error=True)
