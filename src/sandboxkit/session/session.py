"""A session: a sandbox, an agent in it, and their history."""

from __future__ import annotations

import contextlib
import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import anyio.to_thread

from sandboxkit.agents.base import Agent, Conversation, RunResult
from sandboxkit.agents.events import Finished
from sandboxkit.agents.stream import EventStream, Turn
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import (
    AgentError,
    InvalidSpecError,
    SandboxClosedError,
    SandboxError,
    StoreError,
)
from sandboxkit.gateway.model.account import Account
from sandboxkit.gateway.model.budget import Budget
from sandboxkit.gateway.model.meter import Meter
from sandboxkit.health import DEADLINE_S, Health
from sandboxkit.limits import WAIT_S
from sandboxkit.machine import known_prices
from sandboxkit.sandbox import Sandbox
from sandboxkit.session.beginning import Wanted, conversation_id
from sandboxkit.session.body import Body
from sandboxkit.session.dialogue import Dialogue, not_open
from sandboxkit.session.ending import Ending
from sandboxkit.session.figures import Figures
from sandboxkit.session.health import session_health
from sandboxkit.session.idling import SLEEP_S, Idling
from sandboxkit.session.lasting import Lasting, check_keep
from sandboxkit.session.named import KEEP_S
from sandboxkit.session.reporting import Reporter
from sandboxkit.session.states import StateMachine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sandboxkit.failover import OneProvider
    from sandboxkit.gateway.model.meter import Price
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.gateway.settings import Gateway
    from sandboxkit.machine import MachinePrice
    from sandboxkit.pool.pool import Pool
    from sandboxkit.progress import Listener
    from sandboxkit.spec import SandboxSpec
    from sandboxkit.store.keeping import Keeping
    from sandboxkit.store.store import Store
    from sandboxkit.store.workspace import Workspace

log = logging.getLogger(__name__)

_CLOSE_S = 180.0


class Session(Figures):
    """An agent in a sandbox of its own, for an `async with` block.

    ```python
    async with Session("docker") as session:
        result = await session.run("Make the tests in /work pass")
    ```

    Entering creates the sandbox and starts the agent; leaving ends both. One prompt runs
    at a time. An agent that dies fails its prompt; the next prompt starts it again, and it
    takes up the conversation where it was.

    Args:
        provider: The backend, by name or as an object; a list of them, of which the first
            is taken that has room and answers; or a `Sandbox` of the caller's, which has
            what the agent needs and is not destroyed at the end; or a `Pool` that was made
            for this agent, of which a machine is claimed (and destroyed at the end). None is
            the backend that a session out of a store was on, or that of `sandbox`.
        agent: The agent, by name or as an object such as `ClaudeCode(options)`. None is
            `claude-code`; for a session out of a store, the one that it had.
        spec: What the sandbox shall be.
        id: The id of the conversation, a UUID; None makes one.
        resume: The id of an earlier conversation to take up. It must be in the sandbox, or
            in a store that the agent was given (`ClaudeAgentOptions.session_store`), or in
            `store`; then its files are brought back as well. See `Session.resume`.
        name: The name of a session that lasts: it is taken up if it lives, in whichever process
            it was begun, and made if it does not. Leaving lets go of it. See docs/sessions.md.
        keep_s: Seconds that a named session's sandbox outlives its last host, whether that has
            left or was killed; a `lease_s` in the spec wins.
        store: A `Store`, or the URL of its database: conversation and files are kept there as
            they grow, so that the session can go on in another sandbox.
        workspace: Which files; None is all of the work directory, or what the session that is
            taken up had.
        on_progress: Called with each step of a slow creation.
        wait_s: Seconds to wait while the backend has no room, or limits the rate.
        budget: What may be spent on the model; several sessions may share one.
        models: Patterns such as `claude-haiku-*` of the models that may be asked for; None
            is all.
        prices: Prices of the user's own, by model or by a pattern such as `*haiku*`; they win.
        machine_price: The same for the machine; None is the backend's list price, where one
            is known.
        secrets: Values that the sandbox never has; as for `Sandbox.create`.
        gateway: How the gateway reaches the world; likewise.
        sandbox: A sandbox of the caller's, to be shared with other sessions: the agent gets a
            Unix user, a home, a work directory and a configuration of its own, which no other
            agent in it can enter. They end with the session; the sandbox does not. It must
            have what the agent needs, and the backend must let its guest be root.
        shared_folders: For `sandbox`: folders, such as `/shared/board`, that the agents of those
            sessions can read and write that name them. They are made, and stay.
        **spec_fields: Single fields of the spec, as for `Sandbox.create`; and `on_idle`, for
            what is done with the machine when nothing was done in it for `idle_timeout_s`. For a
            machine of a `Pool`, these are `env` and `network`; with `sandbox`, `user`: the name
            of the agent's own user, which none is made up for then.

    Raises:
        InvalidSpecError: An id is not a UUID, a name cannot be one, or arguments contradict.
        UnsupportedError: `sandbox` cannot be shared.
    """

    def __init__(
        self,
        provider: OneProvider | Sequence[OneProvider] | Sandbox | Pool | None = None,
        *,
        agent: str | Agent | None = None,
        spec: SandboxSpec | None = None,
        id: str | None = None,  # noqa: A002 - the word of the whole API
        resume: str | None = None,
        name: str | None = None,
        keep_s: float = KEEP_S,
        store: Store | str | None = None,
        workspace: Workspace | None = None,
        on_progress: Listener | None = None,
        wait_s: float = WAIT_S,
        budget: Budget | Sequence[Budget] = (),
        models: Sequence[str] | None = None,
        prices: Mapping[str, Price] | None = None,
        machine_price: MachinePrice | None = None,
        secrets: Sequence[Secret] = (),
        gateway: Gateway | None = None,
        sandbox: Sandbox | None = None,
        shared_folders: Sequence[str] = (),
        **spec_fields: Any,
    ) -> None:
        if id is not None and resume is not None:
            raise InvalidSpecError("give either id, for a new conversation, or resume; not both")
        self._wanted = Wanted(
            provider=provider,
            agent=agent,
            spec=spec,
            spec_fields=spec_fields,
            secrets=secrets,
            gateway=gateway,
            store=store,
            workspace=workspace,
            on_progress=on_progress,
            wait_s=wait_s,
            sandbox=sandbox,
            shared_folders=shared_folders,
            name=name,
        )
        self._wanted.check(resume=resume is not None)
        if name is None and keep_s != KEEP_S:
            raise InvalidSpecError("keep_s is for a session that lives on: give it a name as well")
        self._lasting = None if name is None else Lasting(name, self._wanted, keep_s, id)
        budgets = (budget,) if isinstance(budget, Budget) else tuple(budget)
        self._account = Account(Meter(prices), budgets, None if models is None else tuple(models))
        self._machine_price = machine_price
        self._closed = False
        self._states = StateMachine()
        self._dialogue = Dialogue(
            conversation_id(id or resume or str(uuid4())),
            self._account,
            self._states,
            begun=resume is not None,
        )
        self._reporter = Reporter(self._dialogue, self._account, self._states, self._wanted)
        self._body = Body(self._wanted, self._dialogue, self._reporter, self._lasting)
        self._idling = Idling(self._wanted, self._body, self._dialogue, self._states)
        parts = (self._body, self._dialogue, self._idling, self._account, self._lasting)
        self._ending = Ending(*parts)

    @classmethod
    def resume(
        cls,
        session_id: str,
        *,
        store: Store | str,
        provider: OneProvider | Sequence[OneProvider] | None = None,
        fork: bool = False,
        **options: Any,
    ) -> Self:
        """Go on with a session that a store has, in a new sandbox, for an `async with` block.

        The sandbox is made as the session's was, and has its files, byte for byte. What a
        store does not keep must be given again: values of `env`, `secrets`, `artifacts`. Whoever
        resumes takes the session over: another host that still had it saves no more.

        Args:
            session_id: The session.
            store: The `Store`, or the URL of its database.
            provider: Another backend; None is the one it was on.
            fork: Whether to begin a second session where this one was saved last, with an id of
                its own (`session.id`, once entered).
            **options: As for `Session`; fields of the spec win over those that are stored.

        Entering raises:
            StoreError: There is no such session, or something is damaged; then nothing was made.
            UnsupportedError: The sandbox cannot be what the session's was; it names the field.
            SandboxError: See `Session`.
        """
        session = cls(provider, resume=session_id, store=store, **options)
        session._wanted.fork = fork
        return session

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._sandbox else "not entered"
        named = "" if self._lasting is None else f" {self._lasting.name!r}"
        return f"<Session{named} {self.id} {state}>"

    @property
    def sandbox(self) -> Sandbox:
        """The session's sandbox. What is asked of one that the session has paused wakes it.

        Raises:
            AsleepError: The session is asleep, and has none: `await session.wake()`.
            SandboxClosedError: The session is not open.
        """
        if self._sandbox is None or self._closed:
            raise not_open(closed=self._closed)
        self._idling.check()
        return self._sandbox

    @property
    def _sandbox(self) -> Sandbox | None:
        return self._body.sandbox

    @property
    def _keeping(self) -> Keeping | None:
        return self._body.keeping

    @property
    def conversation(self) -> Conversation:
        """The running agent, for what only this kind of agent can do.

        Raises:
            SandboxClosedError: The session is not open.
            AgentError: The agent has died; the next prompt starts it again.
        """
        self._check_open()
        if self._dialogue.conversation is None:
            raise AgentError("The agent does not run; the next prompt starts it again.")
        return self._dialogue.conversation

    # the start

    async def __aenter__(self) -> Self:
        """Create the sandbox and start the agent. What fails leaves nothing behind.

        A named session that lives is taken up: its sandbox as it is, and the agent, if one
        still runs in it. While another host uses that agent, the session can be entered, and
        its prompts raise `AgentError`, code `held`.

        Raises:
            SandboxError: See `Sandbox.create`, and `Agent.prepare` and `Agent.start`.
        """
        if self._sandbox is not None or self._closed:
            raise SandboxClosedError("A session can be entered once; make a new one.")
        self._states.to("creating")
        try:
            await self._create()
        except BaseException as error:
            self._states.fail(error)
            if self._keeping is not None:
                await run_to_end(self._keeping.close(None), deadline_s=_CLOSE_S)
            raise
        try:
            await self._dialogue.connect()
            self._ending.keep_s = self._lasting.keep_s if self._lasting is not None else None
        except BaseException as error:
            self._states.fail(error)
            with contextlib.suppress(StoreError):
                await self.aclose()
            raise
        if self._keeping is not None:
            self._keeping.started()
        self._states.to("ready")
        self._idling.start()
        return self

    async def _create(self) -> None:
        await anyio.to_thread.run_sync(known_prices)  # it reads a file
        await self._body.make(resume=self._dialogue.begun)
        if self._lasting is not None and self._body.lived:
            # A failure from here on does not end what was there before.
            self._ending.keep_s = self._lasting.keep_s
        elif self._body.owned is not None:
            self.create_s = time.monotonic() - self._body.began

    async def wake(self) -> None:
        """Have a machine again, if the session is asleep; the next prompt does so by itself.

        Its idle time begins anew. Cancelling leaves it to wake up by itself.

        Raises:
            SandboxClosedError: The session is not open.
            SandboxError: It could not be woken: see `Sandbox.resume`, `Sandbox.create`,
                `Session.resume`. It can be tried again.
        """
        self._check_open()
        await self._idling.awake()

    # prompts

    async def run(self, prompt: str) -> RunResult:
        """Give the agent a prompt, and wait for its result.

        Cancelling it interrupts the agent; the session can be used on.

        Raises:
            AgentError: The agent died (see `code`), or another prompt is running (`busy`).
            SandboxError: The sandbox failed.
        """
        result: RunResult | None = None
        async with self.stream(prompt) as events:
            async for event in events:
                if isinstance(event, Finished):
                    result = event.result
        if result is None:
            raise not_open(closed=self._closed)
        return result

    def stream(self, prompt: str) -> EventStream:
        """Give the agent a prompt, and follow what happens: `async for event in ...`.

        Raises what `run` raises, from the iteration.
        """
        if not prompt.strip():
            raise InvalidSpecError("the prompt is empty")
        return EventStream(Turn(self._dialogue, prompt))

    def follow(self, after: str | None = None) -> EventStream:
        """What is left of the turn that another host has begun: `async for event in ...`.

        A named session's agent goes on without a host. Who attaches next follows the rest, from
        the first event that the last host had not done with; an event is done with when the
        next one is asked for. A turn that has ended meanwhile gives its rest and `Finished`.

        Args:
            after: The `EventStream.position` that was kept with the last event: each event then
                comes exactly once. Without it, the one that was in hand may come again.

        Raises from the iteration, besides what `run` raises:
            AgentError: There is no such turn (`no_turn`), or it does not go back as far as
                `after`, or that is another's (`bad_position`).
        """
        return EventStream(Turn(self._dialogue, None, after))

    async def interrupt(self) -> None:
        """Stop what the agent is doing; its `run` or `stream` ends with a result.

        Does nothing where no prompt is running.

        Raises:
            SandboxClosedError: The session is not open.
        """
        self._check_open()
        await self._dialogue.interrupt()

    async def save(self) -> None:
        """Save all that there is now: the conversation, and what has changed of the files.

        It is also done by itself, after each prompt and at the end.

        Raises:
            InvalidSpecError: The session has no store.
            StoreError: The store failed.
            SandboxError: The files cannot be read, or are more than `workspace` allows.
        """
        self._check_open()
        if self._keeping is None:
            raise InvalidSpecError("the session has no store: Session(..., store=...)")
        if self._idling.asleep is not None:
            return  # it was saved before, and nothing has happened since
        await self._keeping.save()

    async def health(self, *, deadline_s: float = DEADLINE_S) -> Health:
        """How the machine, the guest, the agent and the gateway are, each with a reason.

        `print(await session.health())` is one line; `health.ok` and `health.as_dict()` are
        for a health endpoint. It raises nothing because something is ill, whatever state
        the session is in; it is no activity, and neither wakes nor hinders a prompt.

        Args:
            deadline_s: Seconds for each part, all at once; what has not answered by then
                is ill.
        """
        return await session_health(
            self._sandbox, self._dialogue, self._account, self._states.now, deadline_s=deadline_s
        )

    async def extend(self, seconds: float) -> datetime | None:
        """Put the end of the machine's life-time off; see `Sandbox.extend`, also what it raises."""
        return await self.sandbox.extend(seconds)

    # the end

    async def detach(self, keep_s: float | None = None) -> None:
        """Let go of a named session: agent and sandbox live on, to be taken up by its name.

        Args:
            keep_s: For how many seconds without any host; None is the session's `keep_s`.

        Raises what `aclose` raises, and `InvalidSpecError` where the session has no name.
        """
        if self._lasting is None:
            raise InvalidSpecError("only a session with a name lives on: Session(..., name=...)")
        self._check_open()
        if keep_s is not None:
            self._ending.keep_s = check_keep(keep_s)
        await self.aclose()

    async def destroy(self) -> None:
        """End the session for good, with its sandbox, whoever else uses it; its name is free.

        A store keeps what was said and made, to be resumed by its id, and forgets the name.
        A named session need not have been entered. Without a name, it is `aclose`.

        Raises what `aclose` raises, and `SandboxError` where the backend does not let it.
        """
        if self._lasting is not None and self._sandbox is None:
            if not self._closed:
                self._closed = True
                self._states.to("closed")
            await self._lasting.remove()
            return
        self._ending.keep_s, self._ending.for_good = None, True
        await self.aclose()

    async def aclose(self) -> None:
        """End the agent, and the sandbox that was made for it. Idempotent.

        A running prompt fails. Cancellation waits until all is done. Of a named session it lets
        go, as `detach` does.

        Raises:
            StoreError: The session's last state could not be saved; all else is done. What was
                saved before is kept.
        """
        if self._closed:
            return
        self._closed = True
        began = time.monotonic()
        unsaved: SandboxError | None = None
        try:
            await run_to_end(self._idling.aclose(), deadline_s=SLEEP_S)
            unsaved = await run_to_end(self._ending.run(), deadline_s=_CLOSE_S)
        finally:
            self.close_s = time.monotonic() - began
            self._states.to("closed")
        if unsaved is not None:
            raise StoreError(
                f"The last state of the session {self.id} is not in the store, only what was "
                f"saved before: {unsaved}",
                code=unsaved.code if isinstance(unsaved, StoreError) else None,
            ) from unsaved

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        except StoreError as error:
            if exc is None:
                raise
            log.warning("%s", error)  # the block's own error is the one to see

    def _check_open(self) -> None:
        if self._sandbox is None or self._closed:
            raise not_open(closed=self._closed)
