"""The `bash` tool that Anthropic defines, in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sandboxkit.agents.messages.tools.shell import Outcome, Shell
from sandboxkit.agents.messages.tools.tool import Block, SandboxTool, ToolFailed, ToolOutput
from sandboxkit.errors import ExecStartError

if TYPE_CHECKING:
    from sandboxkit.sandbox import Sandbox

OUTPUT_LIMIT: Final = 30_000
"""Bytes of a command's output that the model sees: the first and the last half."""

_NEW_SHELL: Final = (
    "The shell and everything that it had started are gone; the next command gets a new one, in "
    "the work directory."
)


class Bash(SandboxTool):
    """A shell that stays for the whole session; the first call starts it.

    Args:
        sandbox: Where.
        timeout_s: Seconds for each command.
    """

    def __init__(self, sandbox: Sandbox, timeout_s: float) -> None:
        self._sandbox = sandbox
        self._timeout_s = timeout_s
        self._shell: Shell | None = None

    def definition(self) -> Block:
        """See `SandboxTool`. The same version for all models since Claude 3.7."""
        return {"type": "bash_20250124", "name": "bash"}

    async def run(self, arguments: Mapping[str, Any]) -> ToolOutput:
        """See `SandboxTool`: `command`, or `restart`."""
        if arguments.get("restart"):
            await self.aclose()
            return ToolOutput("The shell has been restarted.")
        command = arguments.get("command")
        if not isinstance(command, str) or not command.strip():
            raise ToolFailed("`command` is missing; or give `restart: true`.")
        if "\0" in command:
            raise ToolFailed("The command holds NUL, which a shell cannot take.")
        try:
            outcome = await self._run(command)
        except BaseException:
            await self.aclose()  # the command may still run
            raise
        if outcome.ended:
            await self.aclose()
        return self._said(outcome)

    async def _run(self, command: str) -> Outcome:
        if self._shell is not None and self._shell.ended:
            await self.aclose()  # something in the background has killed it
        if self._shell is None:
            try:
                self._shell = await Shell.start(self._sandbox, OUTPUT_LIMIT)
            except ExecStartError as error:
                raise ToolFailed(f"The shell could not be started: {error.message}") from error
        return await self._shell.run(command, self._timeout_s)

    def _said(self, outcome: Outcome) -> ToolOutput:
        notes: list[str] = []
        code = outcome.exit_code
        if code is None:
            notes.append(
                f"The command was ended after {self._timeout_s:g} s. {_NEW_SHELL} What takes "
                "longer must run in the background, with its output in a file."
            )
        elif outcome.ended:
            notes.append(f"The shell has ended with exit code {code}. {_NEW_SHELL}")
        elif code:
            notes.append(f"Exit code {code}")
        if outcome.oom_killed:
            notes.append("The sandbox ran out of memory.")
        said = outcome.output.text
        if notes:
            separator = "\n" if said and not said.endswith("\n") else ""
            said = f"{said}{separator}[{' '.join(notes)}]"
        return ToolOutput(said or "[No output]", is_error=code != 0)

    async def aclose(self) -> None:
        """See `SandboxTool`."""
        shell, self._shell = self._shell, None
        if shell is not None:
            await shell.aclose()
