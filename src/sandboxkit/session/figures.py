"""What a session has used, and what state it is in: the side of it that is only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandboxkit.machine import MachineUsage, known_prices

if TYPE_CHECKING:
    from sandboxkit.agents.base import Usage
    from sandboxkit.gateway.model.account import Account
    from sandboxkit.gateway.model.meter import Meter
    from sandboxkit.machine import MachinePrice
    from sandboxkit.session.body import Body
    from sandboxkit.session.dialogue import Dialogue
    from sandboxkit.session.logs import LogStream, SessionLog
    from sandboxkit.session.reporting import Reporter
    from sandboxkit.session.states import StateMachine, States


class Figures:
    """What `Session` tells of itself.

    Attributes:
        create_s: Seconds that the creation of the sandbox took; 0 for one that was there.
        close_s: Seconds that the closing took; 0 before it.
    """

    _dialogue: Dialogue
    _account: Account
    _body: Body
    _states: StateMachine
    _reporter: Reporter
    _machine_price: MachinePrice | None

    create_s: float = 0.0
    close_s: float = 0.0

    @property
    def id(self) -> str:
        """The id of the conversation; of a session with a store, the id to resume it by."""
        return self._dialogue.id

    @property
    def usage(self) -> Usage:
        """The tokens of all finished runs, as the agent reports them."""
        return self._dialogue.usage

    @property
    def cost_usd(self) -> float | None:
        """Their cost as the agent reports it; None where it reports none."""
        return self._dialogue.cost_usd

    @property
    def connect_s(self) -> float:
        """Seconds that the last start of the agent took."""
        return self._dialogue.connect_s

    @property
    def states(self) -> States:
        """The state that the session is in, to be read and followed."""
        return self._states

    @property
    def meter(self) -> Meter:
        """What was asked of models, as the gateway has counted it.

        `meter.total`, `meter.by_model`, `meter.calls`; and `async for call in meter.follow()`.
        """
        return self._account.meter

    @property
    def log(self) -> SessionLog:
        """All that happens in it: `log.listen(function)`, `log.lines`, and see `logs`."""
        return self._reporter.log

    def logs(self, *, past: bool = False) -> LogStream:
        """All that happens from now on: `async for line in session.logs()`.

        States, turns, what the agent writes to its stderr, requests to the model, budgets,
        what was asked of the network, what happens to the sandbox, saves. Without secrets,
        prompts and answers. It ends when the session is closed. The same goes to the logger
        `sandboxkit.session`.

        Args:
            past: Whether it begins with the last 1,000 lines that there were.
        """
        return self._reporter.log.follow(past=past)

    @property
    def machine(self) -> MachineUsage:
        """How long there has been a machine, and what that costs beside the model."""
        seconds = self._body.clock.seconds
        if self._body.sandbox is None:
            return MachineUsage(seconds, 0.0)
        info = self._body.sandbox.info
        price = self._machine_price or known_prices().get(info.provider)
        return MachineUsage(seconds, None if price is None else price.of(info, seconds))
