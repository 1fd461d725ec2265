"""The agent of a session: started when it is needed, and one prompt at a time."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from sandboxkit.agents.base import Usage
from sandboxkit.agents.events import NetworkRefusal, Notice
from sandboxkit.agents.stream import SETTLE_S
from sandboxkit.agents.words import hearing
from sandboxkit.errors import (
    AgentError,
    SandboxClosedError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sandboxkit.agents.base import Agent, Conversation, RunResult
    from sandboxkit.agents.events import Event
    from sandboxkit.agents.stream import Turn
    from sandboxkit.gateway.decisions import Decision
    from sandboxkit.gateway.model.account import Account
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session.memo import Memo
    from sandboxkit.session.states import StateMachine
    from sandboxkit.store.keeping import Keeping

_REFUSALS: Final = 100  # that wait for the next event; then the oldest is dropped


class TurnListener(Protocol):
    """Is told of a session's turns."""

    def __call__(
        self, turn: Turn, result: RunResult | None, error: BaseException | None, *, began: bool
    ) -> None:
        """One has begun, or has ended: with a result, by an error, or with neither."""
        ...


class Dialogue:
    """Holds a session's turns; see `sandboxkit.agents.stream.Owner`.

    Args:
        session_id: The id of the conversation.
        account: Budgets and the meter.
        states: The session's state: it says when a prompt is being worked on.
        begun: Whether there is a conversation that must be found.

    Attributes:
        id: The session's id: the conversation's; of a kept one the store's, and of a named one
            the label's, whatever the agent calls the conversation.
        begun: See above; also once there was a result.
        usage: The tokens of all finished runs.
        cost_usd: Their cost as the agent reports it; None where it reports none.
        connect_s: Seconds that the last start of the agent took.
        turns: How many prompts there have been.
        turn_began: Since when one is being worked on, on the monotonic clock; None if none is.
        awake: Waited for by each turn: there is a machine after that.
        told: Called when a turn begins, ends or breaks; it must not raise.
        heard: Called with each line that the agent writes to its stderr; likewise.
    """

    def __init__(
        self, session_id: str, account: Account, states: StateMachine, *, begun: bool
    ) -> None:
        self.id = session_id
        self.begun = begun
        self.usage = Usage()
        self.cost_usd: float | None = None
        self.connect_s = 0.0
        self.turns = 0
        self.turn_began: float | None = None
        self._account = account
        self._states = states
        self._starts = 0
        self._lived = self._closed = False
        self._agent: Agent | None = None
        self._sandbox: Sandbox | None = None
        self._keeping: Keeping | None = None
        self._memo: Memo | None = None
        self._conversation: Conversation | None = None
        self._turn: Turn | None = None
        self._broken: Turn | None = None  # the last one that ended by an error
        self._refused: deque[Decision] = deque(maxlen=_REFUSALS)
        self._unlisten: Callable[[], None] | None = None
        self._told_unsaved: SandboxError | None = None
        self._held = contextlib.ExitStack()
        self.awake: Callable[[], Awaitable[None]] | None = None
        self.told: TurnListener = _unheard
        self.heard: Callable[[str], object] = _deaf

    # the agent

    def open(
        self,
        agent: Agent,
        sandbox: Sandbox,
        keeping: Keeping | None,
        *,
        lived: bool = False,
        memo: Memo | None = None,
    ) -> None:
        """There is a machine for it now.

        Args:
            agent: The agent.
            sandbox: The machine.
            keeping: What keeps the session, where it is kept.
            lived: Whether the sandbox was there before, perhaps with the agent running in it.
            memo: What the hosts of a named session tell each other.
        """
        self._agent, self._sandbox, self._keeping = agent, sandbox, keeping
        self._lived, self._closed = lived, False
        if self._unlisten is not None:
            self._unlisten()
        self._memo = memo
        self._unlisten = sandbox.network.listen(self._decided)

    @property
    def conversation(self) -> Conversation | None:
        """The running agent; None where none runs."""
        return self._conversation

    async def connect(self) -> None:
        """Start the agent, or take it up; another host's is left for the next prompt to ask for."""
        try:
            await self.connected()
        except AgentError as error:
            if not self._lived or error.code != "held":
                raise

    async def connected(self) -> Conversation:
        """The running agent, started if it does not run."""
        if self._conversation is None:
            if self._agent is None or self._sandbox is None:
                raise not_open(closed=self._closed)
            began = time.monotonic()
            # Much of the start is on this host.
            with self._sandbox.activity.hold(), hearing(self.heard):
                self._conversation = await self._start(self._agent, self._sandbox)
            self._starts += 1
            self.connect_s = time.monotonic() - began
        return self._conversation

    async def _start(self, agent: Agent, sandbox: Sandbox) -> Conversation:
        named = self._conversation_id()
        if self._lived and self._starts == 0:
            for known_as in dict.fromkeys((named, self.id)):  # it runs as what it was begun as
                adopted = await agent.adopt(sandbox, self._account, session_id=known_as)
                if adopted is not None:
                    return adopted
        start = partial(agent.start, sandbox, self._account, session_id=named)
        if self._starts == 0 and not self.begun and not self._lived:
            return await start(resume=False)
        try:
            return await start(resume=True)
        except AgentError as error:
            if error.code != "no_conversation" or await self._must_have_begun():
                raise
            return await start(resume=False)

    def _conversation_id(self) -> str:
        """The id by which the agent knows the conversation."""
        if self._keeping is not None:
            return self._keeping.conversation
        return self.id if self._memo is None else self._memo.conversation

    async def _must_have_begun(self) -> bool:
        """Whether there is a conversation to be found.

        The agent may have died in its first prompt, before it had kept anything of it; or the
        session was put into a store before it was asked anything.
        """
        if self._keeping is not None:
            return await self._keeping.has_conversation()
        return self.begun

    async def interrupt(self) -> None:
        """Stop the prompt that is being worked on, if there is one."""
        if self._conversation is None:
            return
        if self._turn is not None:
            await self._conversation.interrupt()
        elif self._conversation.turning:
            await self._end_turn(self._conversation)

    async def _end_turn(self, conversation: Conversation) -> None:
        """Stop a turn that another host has begun, and that nobody follows here."""
        try:
            with anyio.fail_after(SETTLE_S):
                self._count(await conversation.settle())
        except TimeoutError:
            await self.discard(conversation)

    @property
    def turning(self) -> bool:
        """Whether a prompt is being worked on, or waits for its machine."""
        return self._turn is not None

    async def detach(self) -> None:
        """Let go of the agent, which goes on where it can. Never raises."""
        if self._turn is not None and self._conversation is not None:
            self._turn.let_go()
        if (conversation := self._left()) is not None:
            await conversation.detach()
        self._turn = self.turn_began = None
        self._held.close()  # not before: the guest knows by it that the agent is at work

    async def aclose(self) -> None:
        """End the agent. A running prompt fails. Never raises."""
        if (conversation := self._left()) is not None:
            with contextlib.suppress(Exception):
                await conversation.aclose()

    async def rest(self) -> None:
        """End the agent; the next prompt starts it again. Never raises."""
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            with contextlib.suppress(Exception):
                await conversation.aclose()

    def _left(self) -> Conversation | None:
        """No agent is started any more; the one that runs."""
        conversation, self._conversation, self._agent = self._conversation, None, None
        self._closed = True
        if self._unlisten is not None:
            self._unlisten()
        return conversation

    # what a turn asks of its session

    async def begin(self, turn: Turn) -> Conversation:
        """See `sandboxkit.agents.stream.Owner`."""
        before = self._turn
        if before is not None and not before.left:
            raise AgentError(
                "This session is running another prompt. Wait for its result, interrupt() it, or "
                "aclose() its stream; what shall run beside it needs a session of its own.",
                code="busy",
            )
        self._turn = turn
        self.turns += 1
        self.turn_began = time.monotonic()
        self.told(turn, None, None, began=True)
        if before is not None:
            await before.leave()
        if self.awake is not None:
            await self.awake()
        self._hold()
        conversation = await self.connected()
        if conversation.turning and not turn.follows:
            raise AgentError(
                "A turn that another host has begun is under way. Follow it with follow(), or "
                "interrupt() it first.",
                code="busy",
            )
        if self._keeping is not None:
            await self._keeping.turning()
        if self._turn is turn and self._states.now != "running":
            self._states.to("running")
        return conversation

    def _hold(self) -> None:
        """The sandbox is not idle while a prompt is worked on."""
        self._held.close()
        if self._sandbox is not None:
            with contextlib.suppress(SandboxError):  # lost: the turn will say so
                self._held.enter_context(self._sandbox.activity.hold())

    def finished(self, turn: Turn, result: RunResult | None) -> None:
        """See `sandboxkit.agents.stream.Owner`."""
        if turn is not self._broken:
            self.told(turn, result, None, began=False)
        if self._turn is turn:
            self._turn = self.turn_began = None
            self._held.close()
            if self._states.now == "running":
                self._states.to("ready")
        if self._keeping is not None:
            self._keeping.turned(None if result is None else result.session_id)
        self._count(result)

    def _count(self, result: RunResult | None) -> None:
        if result is not None:
            self.begun = True
            if self._memo is not None:
                self._memo.turned(result.session_id)
            elif self._keeping is None:
                self.id = result.session_id
            self.usage += result.usage
            if result.cost_usd is not None:
                self.cost_usd = (self.cost_usd or 0.0) + result.cost_usd

    def broke(self, turn: Turn, error: BaseException) -> None:
        """See `sandboxkit.agents.stream.Owner`."""
        self._broken = turn
        self.told(turn, None, error, began=False)
        if self._turn is turn and isinstance(error, SandboxDiedError | SandboxNotFoundError):
            self._states.fail(error)

    def noticed(self) -> Sequence[Event]:
        """See `sandboxkit.agents.stream.Owner`."""
        refused = list(self._refused)
        self._refused.clear()
        events: list[Event] = [
            NetworkRefusal(one.method, one.host, one.port, one.reason, raw=one) for one in refused
        ]
        unsaved = None if self._keeping is None else self._keeping.unsaved
        if unsaved is not None and unsaved is not self._told_unsaved:
            events.append(Notice("not_saved", {"error": str(unsaved)}, raw=unsaved))
        self._told_unsaved = unsaved
        return events

    def _decided(self, decision: Decision) -> None:
        if not decision.allowed:
            self._refused.append(decision)

    async def discard(self, conversation: Conversation) -> None:
        """See `sandboxkit.agents.stream.Owner`."""
        if self._conversation is conversation:
            self._conversation = None
        await conversation.aclose()


def not_open(*, closed: bool) -> SandboxClosedError:
    """The error of a session that is used before or after its time."""
    state = "has been closed" if closed else "is not open: use `async with Session(...)`"
    return SandboxClosedError(f"The session {state}.")


def _unheard(
    turn: Turn, result: RunResult | None, error: BaseException | None, *, began: bool
) -> None:
    """Where nobody listens."""


def _deaf(line: str) -> None:
    """Likewise."""
