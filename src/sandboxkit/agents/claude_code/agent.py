"""`ClaudeCode`: the agent of a `Session`."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

import anyio
import anyio.to_thread
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient

from sandboxkit.agents.base import Agent, Conversation
from sandboxkit.agents.claude_code import options as option_rules
from sandboxkit.agents.claude_code.adoption import end_cli, find_cli
from sandboxkit.agents.claude_code.binary import claude_code_artifact
from sandboxkit.agents.claude_code.conversation import ClaudeCodeConversation
from sandboxkit.agents.claude_code.failures import as_sandbox_errors
from sandboxkit.agents.claude_code.lasting import LastingTransport
from sandboxkit.agents.claude_code.totals import NOTHING, totals_before
from sandboxkit.agents.claude_code.transport import SandboxTransport
from sandboxkit.agents.credentials import hidden_of
from sandboxkit.agents.service import check_choice, refuse_credentials, upstream_for
from sandboxkit.agents.words import said
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import AgentError, ExecStartError, InvalidSpecError, SandboxError
from sandboxkit.spec import SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.gateway.model.account import Account
    from sandboxkit.gateway.model.upstream import Upstream
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.store.archive import Archive

CONNECT_S: Final = 120.0
"""Seconds for the CLI to start and to answer its first request, MCP servers included."""

_DISCONNECT_S = 60.0
_STDERR_LINES = 20


def default_options() -> ClaudeAgentOptions:
    """What Claude Code runs with where the caller gives no options.

    Its own system prompt, and no questions: nobody would answer them, and the wall is
    the sandbox, not the prompt for permission.
    """
    return ClaudeAgentOptions(
        system_prompt={"type": "preset", "preset": "claude_code"},
        permission_mode="bypassPermissions",
    )


class ClaudeCode(Agent):
    """The real Claude Code CLI, in the sandbox of a `Session`.

    Args:
        options: As for the SDK, and all of them mean what they mean there; None is
            `default_options()`. Paths in them: see `sandboxkit.agents.claude_code.options`.
            A `Session` sets the session id and partial messages itself.
        upstream: The service that has the model: `Anthropic(...)`, `Bedrock(region=...)`,
            `Vertex(project=..., region=...)`, `Foundry(resource=...)`. None is what the CLI
            would use here.
        model_url: Short for an `Anthropic` service at this base URL, seen from this machine.
        api_key: The key for it, which stays on this machine. None is the one that the CLI
            would find here: `ANTHROPIC_API_KEY`; with an explicit `model_url`, none at all.
    """

    name: ClassVar[str] = "claude-code"
    interface_version: ClassVar[int] = 1
    install_hint: ClassVar[str] = 'pip install "sandboxkit[claude]"'

    def __init__(
        self,
        options: ClaudeAgentOptions | None = None,
        *,
        upstream: Upstream | None = None,
        model_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        check_choice(upstream, model_url, api_key)
        self._upstream = upstream
        self._options = options if options is not None else default_options()
        self._model_url = model_url
        self._api_key = api_key
        self._lasting = False
        self._is_behind: Callable[[], bool] = lambda: False  # the store, with what it was given

    def __repr__(self) -> str:
        return f"<ClaudeCode model={self._options.model or 'default'}>"

    def kept_in(self, archive: Archive) -> Agent:
        """See `Agent.kept_in`: its transcript, as it grows.

        Raises:
            InvalidSpecError: The options hold a store of their own, or what the SDK does not
                allow beside one.
        """
        given = self._options
        if given.session_store is not None:
            raise InvalidSpecError(
                "give a store to the session or to ClaudeAgentOptions.session_store, not to both"
            )
        for name in ("enable_file_checkpointing", "continue_conversation", "fork_session"):
            if getattr(given, name):
                raise InvalidSpecError(
                    f"ClaudeAgentOptions.{name} cannot be set in a session with a store"
                )
        kept = copy(self)
        store = archive.transcripts()
        kept._is_behind = lambda: archive.failure is not None  # noqa: SLF001 - its own kind
        kept._options = replace(given, session_store=store, session_store_flush="eager")  # noqa: SLF001 - its own kind
        return kept

    def hidden(self) -> Mapping[str, str]:
        """See `Agent.hidden`: the variables of the CLI, and the key."""
        return {**self._options.env, **hidden_of(self._upstream, self._api_key)}

    async def prepare(self, spec: SandboxSpec) -> SandboxSpec:
        """See `Agent.prepare`: the options and the key are checked, the CLI is added."""
        option_rules.check(self._options)
        await anyio.to_thread.run_sync(self._service)  # it may read files
        refuse_credentials(spec.env, type(self).__name__)
        if self._options.cli_path is not None:
            return spec
        return SandboxSpec.build(spec, artifacts=(*spec.artifacts, await claude_code_artifact()))

    def _service(self) -> Upstream:
        if self._upstream is not None:
            self._upstream.check()
            return self._upstream
        return upstream_for(self._options.env, model_url=self._model_url, api_key=self._api_key)

    async def start(
        self, sandbox: Sandbox, account: Account, *, session_id: str, resume: bool
    ) -> Conversation:
        """See `Agent.start`."""
        last_words: deque[str] = deque(maxlen=_STDERR_LINES)
        options = self._for_session(session_id, last_words, resume=resume)
        service = await anyio.to_thread.run_sync(self._service)
        make = LastingTransport if self._lasting else SandboxTransport
        transport = make(sandbox, options, upstream=service, account=account)
        if isinstance(transport, LastingTransport):
            transport.session_id = session_id
            options = transport.mirroring(options, self._is_behind)
        client = ClaudeSDKClient(options, transport=transport)
        try:
            with _connecting(last_words):
                await client.connect()
                before = NOTHING
                if resume and transport.place is not None:
                    before = await totals_before(transport.place, session_id)
                if isinstance(transport, LastingTransport):
                    await transport.noted(await client.get_server_info(), before)
        except BaseException:
            with contextlib.suppress(TimeoutError):
                await run_to_end(client.disconnect(), deadline_s=_DISCONNECT_S)
            raise
        lasting = transport if isinstance(transport, LastingTransport) else None
        return ClaudeCodeConversation(client, last_words, before, account.meter, lasting)

    def durable(self) -> Agent:
        """See `Agent.durable`: the CLI goes on without a host, also in the middle of a turn."""
        lasting = copy(self)
        lasting._lasting = True  # noqa: SLF001 - its own kind
        return lasting

    async def adopt(
        self, sandbox: Sandbox, account: Account, *, session_id: str
    ) -> Conversation | None:
        """See `Agent.adopt`.

        The options shall be those that the CLI was started with: what of them went into its
        command line is as it was, whatever they say now.
        """
        service = await anyio.to_thread.run_sync(self._service)
        found = await find_cli(sandbox, session_id)
        if found is None:
            return None
        process, note = found
        last_words: deque[str] = deque(maxlen=_STDERR_LINES)
        options = self._for_session(session_id, last_words, resume=False)
        transport = LastingTransport(sandbox, options, upstream=service, account=account)
        options = transport.mirroring(options, self._is_behind)
        client = ClaudeSDKClient(options, transport=transport)
        try:
            with _connecting(last_words):
                await transport.join(process, note)
                await client.connect()
        except BaseException as error:
            # It is left as it was found, unless it can never be reached again.
            await transport.detach()
            with contextlib.suppress(TimeoutError):
                await run_to_end(client.disconnect(), deadline_s=_DISCONNECT_S)
            if isinstance(error, ExecStartError) and error.code == "listen":
                await end_cli(process)
                return None
            await process.aclose()
            raise
        return ClaudeCodeConversation(client, last_words, meter=account.meter, transport=transport)

    def _for_session(
        self, session_id: str, last_words: deque[str], *, resume: bool
    ) -> ClaudeAgentOptions:
        told = self._options.stderr

        def keep(line: str) -> None:
            last_words.append(line)
            said(line)
            if told is not None:
                told(line)

        options = replace(self._options, include_partial_messages=True, stderr=keep)
        if resume:
            return replace(options, resume=session_id, session_id=None, continue_conversation=False)
        return replace(options, session_id=session_id)


@contextlib.contextmanager
def _connecting(last_words: Sequence[str]) -> Generator[None]:
    """Within the deadline, and with our errors."""
    try:
        with as_sandbox_errors(last_words), anyio.fail_after(CONNECT_S):
            yield
    except TimeoutError as error:
        if isinstance(error, SandboxError):
            raise
        raise AgentError(
            f"Claude Code did not answer within {CONNECT_S:g} s of its start.", code="no_answer"
        ) from error
