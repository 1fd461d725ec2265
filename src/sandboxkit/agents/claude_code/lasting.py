"""The connection with a CLI that outlives its host; begun, or taken up from another."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from claude_agent_sdk import CLIConnectionError

from sandboxkit.agents.claude_code.joining import Joining
from sandboxkit.agents.claude_code.ledger import Ledger
from sandboxkit.agents.claude_code.mirror import MirroredStore
from sandboxkit.agents.claude_code.model import lasting_route
from sandboxkit.agents.claude_code.note import Counted, Note
from sandboxkit.agents.claude_code.place import Place
from sandboxkit.agents.claude_code.transport import SandboxTransport
from sandboxkit.channel.requests import PIPE
from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import SandboxClosedError, SandboxError

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions

    from sandboxkit.agents.claude_code.mirror import MirroredLine
    from sandboxkit.agents.claude_code.model import LastingRoute
    from sandboxkit.agents.claude_code.totals import Totals
    from sandboxkit.channel.process import Process

_DETACH_S: Final = 30.0
_FLUSH_S: Final = 5.0  # for what is being written: half a message would spoil the next
_ALL: Final = 2**62


class LastingTransport(SandboxTransport):
    """A `SandboxTransport` whose CLI goes on when this host lets go of it, or dies.

    Attributes:
        session_id: The id of the conversation, by which the next host finds it.
    """

    session_id = ""
    _route: LastingRoute | None = None
    _ledger: Ledger | None = None
    _let_go = False
    _joining: Joining | None = None

    @property
    def ledger(self) -> Ledger:
        """What of the CLI's output has been handled.

        Raises:
            SandboxClosedError: It is not connected.
        """
        if self._ledger is None:
            raise SandboxClosedError("there is no connection with Claude Code")
        return self._ledger

    def mirroring(
        self, options: ClaudeAgentOptions, is_behind: Callable[[], bool]
    ) -> ClaudeAgentOptions:
        """The options for the client, whose store then says what it has of the transcript.

        Args:
            options: The transport's own.
            is_behind: See `MirroredStore`.
        """
        if options.session_store is None:
            return options
        store = MirroredStore(options.session_store, self._kept, is_behind)
        return replace(options, session_store=store)

    def _kept(self, lines: Sequence[MirroredLine]) -> None:
        if self._ledger is not None and not self._let_go:
            self._ledger.kept(lines)

    def _ledger_of(self, process: Process, note: Note) -> Ledger:
        return Ledger(process, note, mirrors=self._options.session_store is not None)

    # begun here

    async def _open_route(self, *, web: bool) -> dict[str, str]:
        route = lasting_route(self._sandbox, self._upstream, self.account, web=web)
        self._route = await self._resources.enter_async_context(route)
        # Where the start fails, nothing is to be left.
        self._route.listening.keep = False
        return self._route.environment

    async def _spawn(self, argv: list[str], place: Place, env: dict[str, str]) -> Process:
        if self._route is None:
            raise SandboxClosedError("there is no way to the model")
        route = self._route
        note = Note(
            session=self.session_id,
            port=route.listening.port,
            token=route.token,
            config_dir=place.config_dir,
            cwd=place.cwd,
        )
        process = await self._sandbox.spawn(
            argv,
            cwd=place.cwd,
            env=env,
            stdin=PIPE,
            user=self._options.user,
            detach="lossless",
            note=note.model_dump_json(exclude_defaults=True),
            acknowledge="by_hand",
            passive=True,
        )
        self._ledger = self._ledger_of(process, note)
        route.listening.keep = True
        return process

    async def noted(self, answer: dict[str, Any] | None, before: Totals) -> None:
        """Leave for the next host what the CLI has answered to `initialize`, and its totals."""
        ledger = self.ledger
        note = ledger.note.with_answer(answer or {})
        ledger.note = note.model_copy(update={"totals": Counted.of(before)})
        await self._leave_note(ledger)

    async def _leave_note(self, ledger: Ledger) -> None:
        if self._process is not None:
            await self._process.set_note(ledger.note.model_dump_json(exclude_defaults=True))

    # taken up

    async def join(self, process: Process, note: Note) -> Self:
        """Take the place of the host that had this CLI before.

        Raises:
            SandboxError: The way to the model cannot be made again.
        """
        self.session_id = note.session
        self._place = Place(
            self._sandbox, self._options.user, note.config_dir, note.cwd, has_cli=True
        )
        route = lasting_route(
            self._sandbox,
            self._upstream,
            self.account,
            web=self._web,
            port=note.port,
            token=note.token,
        )
        self._route = await self._resources.enter_async_context(route)
        self._ledger = self._ledger_of(process, note)
        servers = self._options.mcp_servers
        named = servers if isinstance(servers, dict) else {}
        ours = [name for name, server in named.items() if server.get("type") == "sdk"]
        self._joining = Joining(note.answer, ours)
        if self._ledger.prompt_id is not None:
            self._turns.begin()
        self._joined(process)
        return self

    async def _read_messages(self) -> AsyncIterator[dict[str, Any]]:
        if self._joining is not None:
            async for message in self._joining.messages():
                yield message
        try:
            async for message in super()._read_messages():
                yield message
        except CLIConnectionError:
            if not self._let_go:
                raise

    def _came(self) -> None:
        self.ledger.came()

    def _placed(self, line: str, message: dict[str, Any] | None) -> dict[str, Any] | None:
        return self.ledger.read(message, len(line.encode()) + 1)

    # towards the CLI

    async def write(self, data: str) -> None:
        """See `SandboxTransport.write`."""
        if self._joining is None or not self._joining.takes(data):
            await super().write(data)

    async def _send(self, process: Process, data: str) -> None:
        ledger = self.ledger
        message: dict[str, Any] = json.loads(data)
        kind = message.get("type")
        if kind == "user" and message.get("uuid") == ledger.starting is not None:
            # Noted before it is sent, with its end: the next host can tell whether it was.
            ledger.begins_turn(process.stdin.offset + len(data.encode()))
            await self._leave_note(ledger)
        await super()._send(process, data)
        if kind == "control_response":
            response: dict[str, Any] = message.get("response", {})
            ledger.answered(response.get("request_id"))

    # the end

    async def detach(self) -> None:
        """Let go of the CLI, which goes on. Idempotent, bounded, not cut by cancellation."""
        with contextlib.suppress(TimeoutError):
            await run_to_end(self._detach(), deadline_s=_DETACH_S)

    async def _detach(self) -> None:
        self._ready = self._input_open = False
        self._let_go = True
        process, self._process = self._process, None
        try:
            if process is not None:
                if self._writes:
                    await asyncio.wait(self._writes, timeout=_FLUSH_S)
                await process.aclose()  # before the turn's hold: the guest then knows of the turn
        finally:
            self._turns.end()
            await cancel_and_wait(self._stderr, *self._writes)
            await self._resources.aclose()

    async def _end(self, process: Process) -> None:
        if self._route is not None:
            self._route.listening.keep = False
        await super()._end(process)

    async def _drain(self, process: Process) -> None:
        process.stdout.acknowledge(_ALL)
        with contextlib.suppress(SandboxError):
            async for _ in process.stdout:
                process.stdout.acknowledge(_ALL)
