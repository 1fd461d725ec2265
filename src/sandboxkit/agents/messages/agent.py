"""`Messages`: the agent of a `Session`, with its loop on the host."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import anyio.to_thread

from sandboxkit.agents.base import Agent, Conversation
from sandboxkit.agents.credentials import hidden_of
from sandboxkit.agents.messages.client import Attempts, connect
from sandboxkit.agents.messages.conversation import MessagesConversation, Parts
from sandboxkit.agents.messages.history import Shelf
from sandboxkit.agents.messages.tools.bash import Bash
from sandboxkit.agents.messages.tools.editor import Editor
from sandboxkit.agents.messages.tools.tool import SandboxTool, Tool
from sandboxkit.agents.messages.tools.toolbox import Toolbox
from sandboxkit.agents.service import check_choice, refuse_credentials, upstream_for
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import InvalidSpecError, ProviderNotInstalledError

if TYPE_CHECKING:
    from sandboxkit.gateway.model.account import Account
    from sandboxkit.gateway.model.upstream import Upstream
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.spec import SandboxSpec
    from sandboxkit.store.archive import Archive

DEFAULT_MODEL: Final = "claude-sonnet-5-5"
"""Where neither the caller nor `ANTHROPIC_MODEL` names one."""

MAX_TOKENS: Final = 32_000
"""Tokens of one answer, by default."""

_CLOSE_S: Final = 60.0
_SET_HERE: Final = ("max_tokens", "messages", "model", "stream", "system", "thinking", "tools")


class Messages(Agent):
    """An agent whose loop runs on the host; its shell and its editor work in the sandbox.

    The model is asked by the `anthropic` package's asynchronous client of the service
    (Anthropic API, Bedrock, Vertex, Foundry), through the gateway's endpoint on this machine's
    loopback: the same way that Claude Code's requests take, so that budgets, allowed models
    and the meter hold alike. The key stays in that endpoint; the sandbox hears nothing of
    models at all.

    Args:
        model: As the service calls it, or as the Anthropic API does; None is
            `ANTHROPIC_MODEL`, else `DEFAULT_MODEL`.
        system: The system prompt; None is a short one that says where the agent works, and
            an empty one is none.
        tools: Tools of the caller's, which run on the host; and, as mappings, definitions of
            tools that the service runs. (Those that reach the web are withheld unless the
            sandbox's network is `open`.)
        bash: Whether the model has a shell.
        editor: Whether it has the text editor.
        max_tokens: Tokens of one answer at most, thoughts included.
        max_turns: How often the model is asked for one prompt at most; None is without a limit.
        thinking: As the API takes it, such as `{"type": "adaptive"}`.
        parameters: More fields of each request, such as `temperature` or `output_config`.
        cache: How long the API keeps what it has read of the conversation: `5m`, `1h`; None
            asks for no cache.
        bash_timeout_s: Seconds for a command of the shell.
        max_retries: How often a request is sent again after an overload, a rate limit or an
            outage. (The SDK waits in between, as long as the service says.)
        store: A directory of this machine, for conversations that outlive the process: each
            is a file, `<id>.jsonl`, with all that was said and all that the tools gave back,
            readable by its owner alone. It may be resumed in any sandbox, by one session at
            a time. None keeps them in this object. Nothing of it is kept in the sandbox.
        upstream: The service: `Anthropic(...)`, `Bedrock(region=...)`, `Vertex(project=...,
            region=...)`, `Foundry(resource=...)`. None is what Claude Code would use here.
        model_url: Short for an `Anthropic` service at this base URL.
        api_key: The key for it. None is `ANTHROPIC_API_KEY`; with an explicit `model_url`,
            none at all.

    Raises:
        InvalidSpecError: A value cannot be.
    """

    name: ClassVar[str] = "messages"
    interface_version: ClassVar[int] = 1
    install_hint: ClassVar[str] = 'pip install "sandboxkit[anthropic]"'

    def __init__(
        self,
        *,
        model: str | None = None,
        system: str | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        bash: bool = True,
        editor: bool = True,
        max_tokens: int = MAX_TOKENS,
        max_turns: int | None = None,
        thinking: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        cache: Literal["5m", "1h"] | None = "5m",
        bash_timeout_s: float = 120.0,
        max_retries: int = 4,
        store: str | Path | None = None,
        upstream: Upstream | None = None,
        model_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        check_choice(upstream, model_url, api_key)
        for what, value in (("max_tokens", max_tokens), ("max_turns", max_turns)):
            if value is not None and value < 1:
                raise InvalidSpecError(f"{what} must be 1 or more, not {value}")
        if not bash_timeout_s > 0 or max_retries < 0:
            raise InvalidSpecError("bash_timeout_s must be more than 0, and max_retries 0 or more")
        if mine := sorted(set(parameters or {}).intersection(_SET_HERE)):
            raise InvalidSpecError(f"parameters holds {', '.join(mine)}, which the agent sets")
        self._model = model or os.environ.get("ANTHROPIC_MODEL") or DEFAULT_MODEL
        self._system = system
        self._tools = [tool for tool in tools if isinstance(tool, Tool)]
        self._server_tools = [tool for tool in tools if not isinstance(tool, Tool)]
        self._bash, self._editor = bash, editor
        self._max_tokens, self._max_turns = max_tokens, max_turns
        self._thinking, self._parameters = thinking, dict(parameters or {})
        self._cache = cache
        self._bash_timeout_s = bash_timeout_s
        self._max_retries = max_retries
        self._has_store = store is not None
        self._shelf = Shelf(None if store is None else Path(store))
        self._upstream, self._model_url, self._api_key = upstream, model_url, api_key
        self._check_names()

    def __repr__(self) -> str:
        return f"<Messages model={self._model}>"

    def kept_in(self, archive: Archive) -> Agent:
        """See `Agent.kept_in`.

        Raises:
            InvalidSpecError: It has a `store` of its own.
        """
        if self._has_store:
            raise InvalidSpecError("give a store to the session or to the agent, not to both")
        kept = copy(self)
        kept._shelf = Shelf(archive)  # noqa: SLF001 - its own kind
        return kept

    def durable(self) -> Agent:
        """See `Agent.durable`: what was said must be there for the next host.

        Raises:
            InvalidSpecError: It would be in this object's memory alone.
        """
        if not self._shelf.lasts:
            raise InvalidSpecError(
                "a named session goes on in other processes, and so must its conversation: "
                'Messages(store="a/directory"), or Session(..., store=...)'
            )
        return self

    def _check_names(self) -> None:
        names = [tool.name for tool in self._tools]
        names += [str(tool.get("name")) for tool in self._server_tools]
        names += ["bash"] if self._bash else []
        names += ["str_replace_based_edit_tool", "str_replace_editor"] if self._editor else []
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidSpecError(f"there are two tools named {', '.join(twice)}")

    def hidden(self) -> Mapping[str, str]:
        """See `Agent.hidden`: the key."""
        return hidden_of(self._upstream, self._api_key)

    async def prepare(self, spec: SandboxSpec) -> SandboxSpec:
        """See `Agent.prepare`: the package, the service and its key must be there."""
        await anyio.to_thread.run_sync(self._service)  # it may read files
        refuse_credentials(spec.env, type(self).__name__)
        return spec

    def _service(self) -> Upstream:
        if find_spec("anthropic") is None:
            raise ProviderNotInstalledError(
                f"the agent 'messages' needs the package 'anthropic': {self.install_hint}"
            )
        service = self._upstream
        if service is None:
            service = upstream_for({}, model_url=self._model_url, api_key=self._api_key)
        service.check()
        service.model_name(self._model)  # it may rule the model out
        return service

    async def start(
        self, sandbox: Sandbox, account: Account, *, session_id: str, resume: bool
    ) -> Conversation:
        """See `Agent.start`. The model is not asked, and nothing is started in the sandbox, yet."""
        from sandboxkit.gateway.model.endpoint import ModelEndpoint

        workdir = sandbox.workdir  # an image without Python has no guest, and is refused here
        history = await self._shelf.take(session_id, resume=resume)
        service = await anyio.to_thread.run_sync(self._service)
        model = service.model_name(self._model) or self._model
        web = sandbox.info.effective.network in {None, "open"}
        attempts = Attempts()
        resources = AsyncExitStack()
        try:
            endpoint = await resources.enter_async_context(ModelEndpoint(service, account, web=web))
            client = await anyio.to_thread.run_sync(
                lambda: connect(
                    endpoint.environment("127.0.0.1", endpoint.port),
                    endpoint.token,
                    max_retries=self._max_retries,
                    attempts=attempts,
                )
            )
            resources.push_async_callback(client.close)
            toolbox = self._toolbox(sandbox)
            resources.push_async_callback(toolbox.aclose)
            return MessagesConversation(
                Parts(
                    session_id=session_id,
                    request=self._request(model, toolbox, workdir, web=web),
                    max_turns=self._max_turns,
                    max_retries=self._max_retries,
                    cache=self._cache,
                    client=client,
                    attempts=attempts,
                    endpoint=endpoint,
                    history=history,
                    toolbox=toolbox,
                    resources=resources,
                )
            )
        except BaseException:
            await run_to_end(resources.aclose(), deadline_s=_CLOSE_S)
            raise

    def _toolbox(self, sandbox: Sandbox) -> Toolbox:
        inside: list[SandboxTool] = []
        if self._bash:
            inside.append(Bash(sandbox, self._bash_timeout_s))
        if self._editor:
            inside.append(Editor(sandbox, self._model))
        return Toolbox(inside, self._tools, self._server_tools)

    def _request(self, model: str, toolbox: Toolbox, workdir: str, *, web: bool) -> dict[str, Any]:
        system = _default_system(workdir, web=web) if self._system is None else self._system
        request: dict[str, Any] = {"model": model, "max_tokens": self._max_tokens}
        if system:
            request["system"] = [{"type": "text", "text": system}]
        if toolbox.definitions:
            request["tools"] = toolbox.definitions
        if self._thinking is not None:
            request["thinking"] = dict(self._thinking)
        if self._parameters:
            request["extra_body"] = self._parameters
        return request


def _default_system(workdir: str, *, web: bool) -> str:
    network = "It may reach the network." if web else "It has no open network."
    return (
        "You work in a Linux sandbox by means of your tools, without anybody who could answer "
        f"questions meanwhile. Its working directory is {workdir}. {network} Do what you "
        "are asked, check that it is done, and then say briefly what you did."
    )
