"""`SandboxTransport`: the SDK's connection to a CLI that runs in a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import anyio
from claude_agent_sdk import (
    ClaudeAgentOptions,
    CLIConnectionError,
    CLIJSONDecodeError,
    CLINotFoundError,
    ProcessError,
    Transport,
)

from sandboxkit.agents.claude_code import arguments, lines, sdk
from sandboxkit.agents.claude_code import options as option_rules
from sandboxkit.agents.claude_code.binary import TARGET
from sandboxkit.agents.claude_code.environment import cli_environment
from sandboxkit.agents.claude_code.model import model_route, upstream_for
from sandboxkit.agents.claude_code.place import find_place
from sandboxkit.agents.claude_code.resume import bring_conversation
from sandboxkit.agents.claude_code.turns import Turns
from sandboxkit.channel.requests import PIPE
from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import ExecStartError, SandboxError
from sandboxkit.gateway.model.account import Account

if TYPE_CHECKING:
    from sandboxkit.agents.claude_code.place import Place
    from sandboxkit.channel.process import Process
    from sandboxkit.gateway.model.upstream import Upstream
    from sandboxkit.sandbox import Sandbox

log = logging.getLogger(__name__)

CLOSE_GRACE_S: Final = 5.0
"""Seconds for the CLI to leave after the end of its input, and again after TERM. The SDK's own."""

OUT_OF_MEMORY: Final = (
    "The sandbox ran out of memory, and the kernel killed one of its processes. Give it more: "
    "memory_gib=..."
)
"""What `ProcessError.stderr` says then; an exit code of -9 does not tell."""

_SEE_STDERR = "Check stderr output for details"
_CLOSE_S = 30.0
_LAST_WORDS_S = 1.0


class SandboxTransport(Transport):
    """Runs the Claude Code CLI in a sandbox, for `ClaudeSDKClient` and `query()`.

    ```python
    async with Sandbox.create("docker", artifacts=[await claude_code_artifact()]) as sandbox:
        transport = SandboxTransport(sandbox, options)
        async with ClaudeSDKClient(options, transport=transport) as client: ...
    ```

    Give the same options to both. What the caller sees, message by message and error by
    error, is what the SDK's local transport shows. Paths in the options mean the sandbox or
    the host as `sandboxkit.agents.claude_code.options` lists. The model is reached from
    the host, by the address and the key that the CLI would find here (`ANTHROPIC_BASE_URL`,
    `ANTHROPIC_API_KEY`, first in `options.env`); the key does not enter the sandbox.

    Args:
        sandbox: Where; it needs the CLI, which `claude_code_artifact()` brings.
        options: As for the client.
        upstream: The service that has the model, if not that: `Anthropic`, `Bedrock`, `Vertex`,
            `Foundry`.
        account: Budgets and the meter; None is without limits, and a meter of its own.

    Raises:
        InvalidSpecError: An option cannot be meant in a sandbox.
        UnsupportedError: An option asks for what cannot be had in a sandbox.
        AuthenticationError: There is no key for the model.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        options: ClaudeAgentOptions | None = None,
        *,
        upstream: Upstream | None = None,
        account: Account | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._options = options or ClaudeAgentOptions()
        option_rules.check(self._options)
        self._upstream = upstream or upstream_for(self._options.env)
        self.account = account or Account()
        self._cli = str(self._options.cli_path or TARGET)
        limit = self._options.max_buffer_size
        self._limit = sdk.DEFAULT_MAX_BUFFER_SIZE if limit is None else limit
        self._process: Process | None = None
        self._place: Place | None = None
        self._resources = contextlib.AsyncExitStack()
        self._stderr: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._write_lock = anyio.Lock()
        self._input_open = False
        self._ready = False
        self._turns = Turns(sandbox)
        self._exit_error: Exception | None = None

    @property
    def place(self) -> Place | None:
        """The agent's own place in the sandbox; None before `connect`."""
        return self._place

    # the start

    async def connect(self) -> None:
        """Start the CLI; a second call does nothing.

        Raises:
            CLINotFoundError: The CLI is not in the sandbox.
            CLIConnectionError: It could not be started; the cause says why.
            InvalidSpecError, PathNotFoundError: An option names what is not there.
        """
        if self._process is not None:
            return
        self._turns.started()
        try:
            self._process = await self._start()
        except BaseException as error:
            self._turns.end()
            await run_to_end(self._resources.aclose(), deadline_s=_CLOSE_S)
            raised = self._as_sdk_error(error)
            if raised is None:
                raise
            self._exit_error = raised
            raise raised from error
        self._joined(self._process)

    def _joined(self, process: Process) -> None:
        self._process = process
        self._stderr = asyncio.ensure_future(self._read_stderr(process))
        self._ready = self._input_open = True

    async def _start(self) -> Process:
        options = self._options
        if not self._web:
            options = option_rules.without_web(options)
        options = replace(options, model=self._upstream.model_name(options.model))
        place = self._place = await find_place(self._sandbox, options, self._cli)
        if not place.has_cli:
            raise CLINotFoundError(
                f"There is no Claude Code CLI at {self._cli} in the sandbox. Create the sandbox "
                "with it: Sandbox.create(..., artifacts=[await claude_code_artifact()]); or, if "
                "its image holds one, name the path there: ClaudeAgentOptions(cli_path=...)."
            )
        options = await option_rules.bring_over(options, place.upload, place.upload_tree)
        options = await bring_conversation(options, place)
        model = await self._open_route(web=self._web)
        argv = sdk.build_command(options, self._cli)
        if self._sandbox.is_shared:
            argv = await arguments.unseen(argv, place.upload)
        env = cli_environment(options, config_dir=place.config_dir, cwd=place.cwd, model=model)
        return await self._spawn(argv, place, env)

    @property
    def _web(self) -> bool:
        """Whether the sandbox may reach the web."""
        return self._sandbox.info.effective.network in {None, "open"}

    async def _open_route(self, *, web: bool) -> dict[str, str]:
        """Make the model reachable; the CLI's environment for it."""
        route = model_route(self._sandbox, self._upstream, self.account, web=web)
        return await self._resources.enter_async_context(route)

    async def _spawn(self, argv: list[str], place: Place, env: dict[str, str]) -> Process:
        """Start the CLI."""
        return await self._sandbox.spawn(
            argv, cwd=place.cwd, env=env, stdin=PIPE, user=self._options.user, passive=True
        )

    def _as_sdk_error(self, error: BaseException) -> Exception | None:
        """What the SDK's local transport would raise; None where that is the error itself."""
        if isinstance(error, ExecStartError) and error.code == "bad_cwd":
            return CLIConnectionError(
                f"Working directory does not exist: {self._options.cwd} (in the sandbox)"
            )
        if isinstance(error, ExecStartError) and error.code in {"not_found", "not_executable"}:
            return CLINotFoundError(f"Claude Code not found at: {self._cli} (in the sandbox)")
        if isinstance(error, SandboxError) and not isinstance(
            error, ValueError | FileNotFoundError
        ):
            return CLIConnectionError(f"Failed to start Claude Code: {error}")
        return None

    # towards the CLI

    def is_ready(self) -> bool:
        """Whether the CLI takes input."""
        return self._ready

    async def write(self, data: str) -> None:
        """Send a message; waits while the CLI is far behind.

        A caller that is cancelled does not cut it: half a message would spoil the next.

        Raises:
            CLIConnectionError: The CLI has ended, or the sandbox is lost.
        """
        task = asyncio.ensure_future(self._write(data))
        self._writes.add(task)
        task.add_done_callback(self._written)
        await asyncio.shield(task)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where the caller has gone

    async def _write(self, data: str) -> None:
        async with self._write_lock:
            process = self._process
            if not self._ready or not self._input_open or process is None:
                raise CLIConnectionError("ProcessTransport is not ready for writing")
            if process.exit_code is not None:
                raise CLIConnectionError(
                    f"Cannot write to terminated process (exit code: {process.exit_code})"
                )
            if self._exit_error is not None:
                raise CLIConnectionError(
                    f"Cannot write to process that exited with error: {self._exit_error}"
                ) from self._exit_error
            self._turns.said(data)
            try:
                await self._send(process, data)
            except SandboxError as error:
                self._ready = False
                self._exit_error = CLIConnectionError(f"Failed to write to process stdin: {error}")
                raise self._exit_error from error

    async def _send(self, process: Process, data: str) -> None:
        await process.stdin.write(data.encode())

    async def end_input(self) -> None:
        """End the CLI's input: it finishes the turn under way and leaves."""
        async with self._write_lock:
            if self._input_open and self._process is not None:
                self._input_open = False
                with contextlib.suppress(SandboxError):
                    await self._process.stdin.close()

    # from the CLI

    def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """The CLI's messages, until it ends.

        Raises:
            ProcessError: It ended with another code than 0; a signal is its negative number.
            CLIConnectionError: The sandbox, or the connection into it, is lost.
            CLIJSONDecodeError: A message is broken, or longer than `max_buffer_size`.
        """
        return self._read_messages()

    async def _read_messages(self) -> AsyncIterator[dict[str, Any]]:
        process = self._process
        if process is None:
            raise CLIConnectionError("Not connected")
        parts = lines.Lines()
        try:
            async for chunk in process.stdout:
                self._came()
                for line in parts.push(chunk):
                    lines.check_size(len(line), self._limit)
                    message = self._placed(line, lines.parse(line))
                    if message is not None:
                        self._turns.heard(message)
                        yield self._as_seen_from_host(message)
                lines.check_size(parts.pending, self._limit)
            # What was cut off in the middle cannot be mended; an end without "\n" can.
            with contextlib.suppress(CLIJSONDecodeError):
                message = lines.parse(parts.flush())
                if message is not None:
                    yield message
            exit_code = await process.wait()
        except SandboxError as error:
            lost = CLIConnectionError(f"The connection with Claude Code was lost: {error}")
            self._exit_error = lost
            raise lost from error
        if exit_code != 0:
            self._exit_error = ProcessError(
                f"Command failed with exit code {exit_code}",
                exit_code=exit_code,
                stderr=OUT_OF_MEMORY if process.oom_killed else _SEE_STDERR,
            )
            raise self._exit_error

    def _came(self) -> None:
        """A piece of the output has come."""

    def _placed(self, line: str, message: dict[str, Any] | None) -> dict[str, Any] | None:  # noqa: ARG002
        """A message that was read; None for what the SDK is not to see."""
        return message

    def _as_seen_from_host(self, message: dict[str, Any]) -> dict[str, Any]:
        """The SDK takes a transcript only from where it believes the CLI's files to be."""
        if message.get("type") == "transcript_mirror" and self._place is not None:
            inside = f"{self._place.config_dir}/projects/"
            path = str(message.get("filePath"))
            if path.startswith(inside):
                outside = sdk.projects_dir(self._options.env)
                message["filePath"] = f"{outside}/{path.removeprefix(inside)}"
        return message

    async def _read_stderr(self, process: Process) -> None:
        """Give the caller whole lines of stderr; it is read on whatever the caller does."""
        parts = lines.Lines(errors="replace")
        try:
            async for chunk in process.stderr:
                for line in parts.push(chunk):
                    self._emit(line)
                if parts.pending > self._limit:
                    self._emit(parts.flush())
        except SandboxError as error:
            log.debug("The CLI's stderr ended: %s", error)
        finally:
            self._emit(parts.flush())

    def _emit(self, line: str) -> None:
        line = line.rstrip()
        if not line:
            return
        try:
            if self._options.stderr is not None:
                self._options.stderr(line)
            else:
                sys.stderr.write(f"{line}\n")
        except Exception:
            log.debug("the stderr callback failed", exc_info=True)

    # the end

    async def close(self) -> None:
        """End the CLI and all that it started: the end of its input, 5 s, TERM, 5 s, KILL.

        Idempotent. Cancellation, also a raw `task.cancel()`, does not cut it short; it
        takes 30 s at most.
        """
        with contextlib.suppress(TimeoutError):
            await run_to_end(self._close(), deadline_s=_CLOSE_S)

    async def _close(self) -> None:
        self._ready = self._input_open = False
        self._turns.end()
        process, self._process = self._process, None
        try:
            if process is not None:
                await self._end(process)
        finally:
            await cancel_and_wait(self._stderr, *self._writes)
            self._exit_error = None
            await self._resources.aclose()

    async def _end(self, process: Process) -> None:
        # Nobody reads any more; a CLI that waits for a reader could not leave.
        drain = asyncio.ensure_future(self._drain(process))
        try:
            with contextlib.suppress(SandboxError):
                await process.stdin.close()
                with anyio.move_on_after(CLOSE_GRACE_S):
                    await process.wait()
                await process.kill(CLOSE_GRACE_S)
            if self._stderr is not None:
                await asyncio.wait({self._stderr}, timeout=_LAST_WORDS_S)
        finally:
            await cancel_and_wait(drain)
            await process.aclose()

    async def _drain(self, process: Process) -> None:
        with contextlib.suppress(SandboxError):
            async for _ in process.stdout:
                pass


__all__ = ["CLOSE_GRACE_S", "OUT_OF_MEMORY", "SandboxTransport"]
