"""How a session ends: the last save, the agent, the machine, and the store, in this order."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sandboxkit.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Generator

    from sandboxkit.gateway.model.account import Account
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session.body import Body
    from sandboxkit.session.dialogue import Dialogue
    from sandboxkit.session.idling import Idling
    from sandboxkit.session.lasting import Lasting


class Ending:
    """Ends a session, or lets go of it.

    Args:
        body: Its machine.
        dialogue: Its agent.
        idling: What puts the machine to sleep.
        account: What its model requests count on.
        lasting: Its name, where it has one.

    Attributes:
        keep_s: For how many seconds the sandbox lives on; None ends it.
        for_good: Whether a store forgets the name, too.
    """

    def __init__(
        self,
        body: Body,
        dialogue: Dialogue,
        idling: Idling,
        account: Account,
        lasting: Lasting | None,
    ) -> None:
        self._body, self._dialogue, self._idling = body, dialogue, idling
        self._account, self._lasting = account, lasting
        self.keep_s: float | None = None
        self.for_good = False

    async def run(self) -> SandboxError | None:
        """Do it.

        Returns:
            Why the last save was not done; None where it was, or there is no store.

        Raises:
            SandboxError: The machine could not be ended; it ends with its lease.
        """
        keeping, unsaved = self._body.keeping, None
        machine = self._body.owned
        try:
            if self._idling.asleep == "pause" and machine is not None:
                await self._thaw(machine)
            with self._awake(machine):
                await (self._dialogue.aclose() if self.keep_s is None else self._dialogue.detach())
                if keeping is not None:
                    unsaved = await keeping.end()
        finally:
            if self._lasting is not None:
                await self._lasting.close(self.keep_s, for_good=self.for_good)
            elif machine is not None:
                await machine.aclose()
            self._body.clock.stop()
            await self._idling.images.forget()
            self._account.meter.close()
            if keeping is not None:
                await keeping.close(unsaved)
        return unsaved

    @contextlib.contextmanager
    def _awake(self, machine: Sandbox | None) -> Generator[None]:
        """Nobody puts it to sleep any more, and it shall not end as idle while it is saved."""
        with contextlib.ExitStack() as held:
            if machine is not None and self._idling.asleep is None:
                with contextlib.suppress(SandboxError):  # it is lost: the save will say so
                    held.enter_context(machine.activity.hold())
            yield

    async def _thaw(self, machine: Sandbox) -> None:
        """Nothing in a paused machine could answer: it is ended first, or goes on."""
        if self.keep_s is None:
            await machine.destroy()
            return
        with contextlib.suppress(SandboxError):
            await self._idling.awake()
        await self._idling.aclose()
