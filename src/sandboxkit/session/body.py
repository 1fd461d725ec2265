"""What a session has of a machine: the sandbox, what keeps its files, and how long it was there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import SandboxClosedError
from sandboxkit.machine import MachineClock

if TYPE_CHECKING:
    from sandboxkit.agents.base import Agent
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session.beginning import Wanted
    from sandboxkit.session.dialogue import Dialogue
    from sandboxkit.session.lasting import Lasting
    from sandboxkit.session.memo import Memo
    from sandboxkit.session.reporting import Reporter
    from sandboxkit.store.keeping import Keeping

_CLOSE_S = 30.0


class Body:
    """Made at the beginning, and again whenever a session wakes that has none.

    Args:
        wanted: What the session was made with.
        dialogue: Its agent, which is given each machine.
        reporter: What is told of each machine.
        lasting: Its name, where it has one.

    Attributes:
        sandbox: The last machine, also one that has ended; None before the first.
        keeping: What keeps the session, where it is kept.
        clock: For how long there was a machine.
        began: When the last one was asked for, on the monotonic clock.
        lived: Whether it was there before.
    """

    def __init__(
        self, wanted: Wanted, dialogue: Dialogue, reporter: Reporter, lasting: Lasting | None
    ) -> None:
        self._wanted, self._dialogue, self._lasting = wanted, dialogue, lasting
        self._reporter = reporter
        self._agent: Agent | None = None
        self.sandbox: Sandbox | None = None
        self.keeping: Keeping | None = None
        self.clock = MachineClock()
        self.began = 0.0
        self.lived = False

    @property
    def owned(self) -> Sandbox | None:
        """The last machine, where it is not one of the caller's."""
        return None if self.sandbox is self._wanted.provider else self.sandbox

    @property
    def there(self) -> Sandbox:
        """The last machine.

        Raises:
            SandboxClosedError: There was none.
        """
        if self.sandbox is None:
            raise SandboxClosedError("The session is not open.")
        return self.sandbox

    async def make(self, *, resume: bool) -> None:
        """Make it as it was wished, and fill it where the session comes out of a store.

        Raises:
            SandboxError: See `Session`; `keeping` may then be there, and no new sandbox is.
        """
        if self._lasting is not None:
            await self._take_up(self._lasting)
            return
        wanted, dialogue = self._wanted, self._dialogue
        keeping = self.keeping = await wanted.keeping(dialogue.id, resume=resume)
        if keeping is not None:
            await keeping.open()
            dialogue.id = keeping.id
            wanted.fork = False  # once
        agent = wanted.choose_agent(None if keeping is None else keeping.agent)
        got = await wanted.make_sandbox(agent, keeping, dialogue.id, resume=resume)
        self.sandbox, self._agent, self.began = got
        self._open(self._agent, self.sandbox)

    async def _take_up(self, lasting: Lasting) -> None:
        """Have the one of this name, which is made if it does not live."""
        dialogue = self._dialogue
        entered = await lasting.enter(dialogue.id)
        taken, self.keeping = entered.taken, entered.keeping
        self.sandbox, self._agent = taken.sandbox, entered.agent
        self.began, self.lived = entered.began, taken.lived
        dialogue.id, dialogue.begun = taken.session, entered.resumed
        self._open(entered.agent, taken.sandbox, memo=taken.memo)

    def _open(self, agent: Agent, sandbox: Sandbox, *, memo: Memo | None = None) -> None:
        self.clock.start(self.began)
        there = self.lived or self.owned is None
        self._reporter.has_machine(sandbox, agent, 0.0 if there else time.monotonic() - self.began)
        if self.keeping is not None:
            self.keeping.told = self._reporter.saved
        self._dialogue.open(agent, sandbox, self.keeping, lived=self.lived, memo=memo)

    async def hydrate(self) -> None:
        """Make another one for a session that the store has, as `Session.resume` does.

        Raises:
            SandboxError: Likewise; the session is in the store as it was.
        """
        try:
            await self.make(resume=True)
        except BaseException:
            if self.keeping is not None:
                await run_to_end(self.keeping.close(None), deadline_s=_CLOSE_S)
            raise
        if self.keeping is not None:
            self.keeping.started()

    async def move(self, image: str, backend: str) -> None:
        """Make another one from a snapshot of the last.

        Raises:
            SandboxError: See `Sandbox.create`.
        """
        self.sandbox, self.began = await self._wanted.made_again(image, backend)
        if self._agent is not None:
            self._open(self._agent, self.sandbox)
        if self.keeping is not None:
            self.keeping.goes_on_in(self.sandbox)
            self.keeping.started()
