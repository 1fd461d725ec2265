"""What the parts of a session tell, written into its log: the one place where lines are worded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from logging import DEBUG, ERROR, INFO, WARNING
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from sandboxkit.agents.credentials import CREDENTIALS
from sandboxkit.redaction import Redactor
from sandboxkit.session.logs import SessionLog

if TYPE_CHECKING:
    from sandboxkit.agents.base import Agent, RunResult
    from sandboxkit.agents.stream import Turn
    from sandboxkit.errors import SandboxError
    from sandboxkit.gateway.decisions import Decision
    from sandboxkit.gateway.model.account import Account
    from sandboxkit.gateway.model.meter import ModelCall
    from sandboxkit.happenings import SandboxEvent
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session.beginning import Wanted
    from sandboxkit.session.dialogue import Dialogue
    from sandboxkit.session.states import StateChange, States

NEARLY_SPENT: Final = 0.8
"""From this share of a limit on, a budget warns, once."""

_EVENT_LEVELS: Final = {"connection_lost": WARNING, "ended": WARNING}


class Reporter:
    """Listens to a session's parts.

    Args:
        dialogue: The agent's turns.
        account: Budgets and the meter.
        states: The session's state.
        wanted: What the session was made with: the values that must not be shown.

    Attributes:
        log: Where the lines go.
    """

    def __init__(
        self, dialogue: Dialogue, account: Account, states: States, wanted: Wanted
    ) -> None:
        self._dialogue, self._account = dialogue, account
        self._sandbox: Sandbox | None = None
        self._endings: list[Callable[[], None]] = []
        self._numbers: WeakKeyDictionary[Turn, int] = WeakKeyDictionary()
        self._failed_before = 0
        self._warned: set[tuple[int, str, float]] = set()
        self._redactor = Redactor()
        self._redactor.add({k: v for k in sorted(CREDENTIALS) if (v := os.environ.get(k))})
        self._redactor.add(_environment(wanted))
        self._redactor.add_source(lambda: _of_now(wanted, account, self._sandbox))
        self.log = SessionLog(self._place, self._redactor)
        states.listen(self._changed)
        account.meter.listen(self._called)
        dialogue.told = self._turned
        dialogue.heard = self._heard

    def _place(self) -> tuple[str, str | None, int | None]:
        dialogue, sandbox = self._dialogue, self._sandbox
        turn = dialogue.turns if dialogue.turn_began is not None else None
        return dialogue.id, None if sandbox is None else sandbox.id, turn

    # the parts, as they come

    def has_machine(self, sandbox: Sandbox, agent: Agent, create_s: float) -> None:
        """There is a machine, made in so many seconds; 0 for one that was there before."""
        self._redactor.add(agent.hidden())
        self._let_go()
        self._sandbox = sandbox
        self._endings = [sandbox.events.listen(self._happened), sandbox.network.listen(self._asked)]
        info = sandbox.info
        fields: dict[str, object] = {
            "sandboxkit.provider": info.provider,
            "container.image.name": info.effective.image,
            "sandboxkit.cpu": info.effective.cpu,
            "sandboxkit.memory_gib": info.effective.memory_gib,
            "sandboxkit.network": info.effective.network,
            "sandboxkit.duration_s": round(create_s, 3) if create_s else None,
        }
        how = f"made in {create_s:.1f} s" if create_s else "taken up"
        self.log.write(
            INFO, "sandbox", "sandbox.ready", f"{info.provider} {info.id}: {how}", fields
        )
        for one in info.differences:
            self.log.write(
                *(INFO, "sandbox", "sandbox.difference"),
                f"{one.field} is {one.applied!r}, not {one.wanted!r}: {one.reason}",
                {"sandboxkit.field": one.field},
            )

    def _let_go(self) -> None:
        for end in self._endings:
            end()
        self._endings.clear()

    # what they tell

    def _changed(self, change: StateChange) -> None:
        why = f": {change.why}" if change.why else ""
        self.log.write(
            *(ERROR if change.after == "failed" else INFO, "session", "session.state"),
            f"{change.before} -> {change.after}{why}",
            {
                "sandboxkit.state.before": change.before,
                "sandboxkit.state.after": change.after,
            },
        )
        if change.after == "closed":
            self._let_go()
            self.log.close()

    def _heard(self, line: str) -> None:
        self.log.write(INFO, "agent", "agent.stderr", line)

    def _turned(
        self, turn: Turn, result: RunResult | None, error: BaseException | None, *, began: bool
    ) -> None:
        if began:
            self._numbers[turn] = self._dialogue.turns
        number = self._numbers.get(turn)
        if began:
            self.log.write(INFO, "turn", "turn.began", f"prompt {number}", turn=number)
        elif error is not None:
            said = f"prompt {number} failed: {error}"
            fields = {"error.type": type(error).__name__}
            self.log.write(ERROR, "turn", "turn.failed", said, fields, turn=number)
        elif result is None:
            self.log.write(INFO, "turn", "turn.ended", f"prompt {number}: no result", turn=number)
        else:
            self._ended(result, number)

    def _ended(self, result: RunResult, number: int | None) -> None:
        cost = "" if result.cost_usd is None else f", {result.cost_usd:.4f} USD"
        errors = f": {'; '.join(result.errors)}" if result.errors else ""
        fields: dict[str, object] = {
            "sandboxkit.stop_reason": result.stop_reason,
            "sandboxkit.requests": result.turns,
            "gen_ai.usage.input_tokens": result.usage.input_tokens,
            "gen_ai.usage.output_tokens": result.usage.output_tokens,
            "sandboxkit.cost_usd": result.cost_usd,
            "sandboxkit.duration_s": round(result.latency.total_s, 3),
            "sandboxkit.first_token_s": _rounded(result.latency.first_token_s),
        }
        self.log.write(
            *(WARNING if result.is_error else INFO, "turn", "turn.ended"),
            f"prompt {number}: {result.stop_reason} after {result.latency.total_s:.1f} s"
            f"{cost}{errors}",
            fields,
            turn=number,
        )

    def _called(self, call: ModelCall) -> None:
        failed = call.status >= 400 or call.refused is not None
        usage = call.usage
        fields: dict[str, object] = {
            "gen_ai.request.model": call.model,
            "http.response.status_code": call.status,
            "gen_ai.usage.input_tokens": None if usage is None else usage.input_tokens,
            "gen_ai.usage.output_tokens": None if usage is None else usage.output_tokens,
            "sandboxkit.cache_read_tokens": None if usage is None else usage.cache_read_tokens,
            "sandboxkit.cost_usd": call.cost_usd,
            "sandboxkit.attempt": self._failed_before + 1,
            "sandboxkit.queued_s": round(call.queued_s, 3),
            "sandboxkit.first_token_s": _rounded(call.first_token_s),
            "sandboxkit.duration_s": round(call.total_s, 3),
        }
        self._failed_before = self._failed_before + 1 if failed else 0
        said = call.refused or f"status {call.status}"
        if not failed and usage is not None:
            said = f"{usage.input_tokens} + {usage.output_tokens} tokens in {call.total_s:.1f} s"
        event = "model.request" if call.refused is None else "model.refused"
        message = f"{call.model or 'no model'}: {said}"
        self.log.write(WARNING if failed else INFO, "model", event, message, fields)
        self._check_budgets()

    def _check_budgets(self) -> None:
        for number, budget in enumerate(self._account.budgets):
            spent = budget.spent
            for kind, limit in budget.limits.items():
                if limit is None or spent[kind] < NEARLY_SPENT * limit:
                    continue
                over = spent[kind] >= limit
                key = (number, f"{kind} {over}", limit)
                if key in self._warned:
                    continue
                self._warned.add(key)
                self.log.write(
                    *(WARNING, "budget", "budget.spent" if over else "budget.nearly_spent"),
                    f"{spent[kind]:g} of {limit:g} {kind} spent",
                    {
                        "sandboxkit.budget": kind,
                        "sandboxkit.budget.limit": limit,
                        "sandboxkit.budget.spent": spent[kind],
                    },
                )

    def _asked(self, decision: Decision) -> None:
        fields: dict[str, object] = {
            "server.address": decision.host,
            "server.port": decision.port,
            "http.request.method": decision.method,
            "network.peer.address": decision.address,
        }
        where = f"{decision.method} {decision.host}:{decision.port}".strip()
        if decision.allowed:
            why = f": {decision.reason}" if decision.reason else ""
            self.log.write(DEBUG, "network", "network.allowed", f"{where}{why}", fields)
        else:
            said = f"{where} refused: {decision.reason}"
            self.log.write(WARNING, "network", "network.refused", said, fields)

    def _happened(self, event: SandboxEvent) -> None:
        words = event.kind.replace("_", " ")
        message = f"{words}: {event.why}" if event.why else words
        level = _EVENT_LEVELS.get(event.kind, INFO)
        self.log.write(level, "sandbox", f"sandbox.{event.kind}", message)

    def saved(self, error: SandboxError | None, files: int, size: int) -> None:
        """The session was saved, or could not be."""
        if error is not None:
            fields: dict[str, object] = {"error.type": type(error).__name__}
            self.log.write(WARNING, "store", "store.failed", f"not saved: {error}", fields)
            return
        fields = {"sandboxkit.files": files, "sandboxkit.bytes": size}
        self.log.write(INFO, "store", "store.saved", f"saved: {files} files, {size} bytes", fields)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _environment(wanted: Wanted) -> dict[str, str]:
    """The variables that the sandbox was to have."""
    found: dict[str, str] = {} if wanted.spec is None else dict(wanted.spec.env)
    given: Mapping[str, str] | None = wanted.spec_fields.get("env")
    if given is not None and hasattr(given, "items"):  # what it is, is checked later
        found |= {str(name): str(value) for name, value in given.items()}
    return found


def _of_now(wanted: Wanted, account: Account, sandbox: Sandbox | None) -> Iterable[tuple[str, str]]:
    """Values that change: what secrets have become, and the tokens of the gateway's routes."""
    for secret in wanted.secrets:
        if secret.last is not None:
            yield secret.name, secret.last
    for route in account.routes:
        yield "token", route.token
    if sandbox is not None:
        yield from sandbox.hidden().items()
