"""Where the time of a turn went: every moment of it belongs to exactly one part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sandboxkit.gateway.model.meter import ModelCall

Span = tuple[float, float]
"""A beginning and an end on the host's monotonic clock."""

# Of what goes on at once, the first of these is what the turn waits for.
_PARTS: Final = ("generation_s", "model_wait_s", "queue_s", "tools_s")


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds on the host's monotonic clock, from the prompt on.

    Times are those at which a message reached the host, however slowly the caller reads.
    `total_s` is the sum of the six parts from `tools_s` on. Where several things go on at
    once (sub-agents, parallel tools), a moment counts once: for the model if any request is
    under way, else for the tools. The creation of the sandbox and the start of the agent at
    the beginning are before any turn: `session.create_s` and `session.connect_s`.

    Attributes:
        first_token_s: Until the first piece of the model's answer; None where there was none.
        total_s: Until the result.
        tools_s: At least one tool call of the agent itself was open, hooks and permission
            callbacks included, and the model had nothing to do.
        machine_s: Until the agent could take the prompt: it had died and was started again,
            or an earlier turn that was left had to stop first.
        queue_s: Requests to the model waited for room in a budget, or had failed (overload,
            rate limits) and were to be sent again.
        model_wait_s: From a request to its first token, of all requests.
        generation_s: From the first token of an answer to its end, of all requests.
        other_s: The rest: the agent's own work, and the way between it and the host.
    """

    first_token_s: float | None
    total_s: float
    tools_s: float = 0.0
    machine_s: float = 0.0
    queue_s: float = 0.0
    model_wait_s: float = 0.0
    generation_s: float = 0.0
    other_s: float = 0.0

    def after(self, machine_s: float) -> Latency:
        """The same turn, when so many seconds had gone before the agent had the prompt."""
        first = None if self.first_token_s is None else self.first_token_s + machine_s
        return replace(
            self,
            first_token_s=first,
            total_s=self.total_s + machine_s,
            machine_s=self.machine_s + machine_s,
        )


def breakdown(
    turn: Span, *, first_token: float | None, calls: Iterable[ModelCall], tools: Sequence[Span]
) -> Latency:
    """The parts of one turn.

    Args:
        turn: From the prompt to the result.
        first_token: When the first piece of the answer reached the host, on the same clock.
        calls: The requests to the model since its beginning, as the gateway has seen them.
        tools: When tools of the agent itself were open.
    """
    began, ended = turn
    spans = [
        *_of_calls(sorted(calls, key=lambda call: call.began)),
        *(("tools_s", t) for t in tools),
    ]
    clipped = [(part, (max(a, began), min(b, ended))) for part, (a, b) in spans]
    moments = sorted(
        {began, ended, *(m for _, span in clipped for m in span if began <= m <= ended)}
    )
    seconds: dict[str, float] = dict.fromkeys(_PARTS, 0.0)
    for a, b in pairwise(moments):
        going_on = {part for part, span in clipped if span[0] <= a and b <= span[1]}
        part = next((part for part in _PARTS if part in going_on), None)
        if part is not None:
            seconds[part] += b - a
    return Latency(
        None if first_token is None else first_token - began,
        ended - began,
        **seconds,
        other_s=max(0.0, ended - began - sum(seconds.values())),
    )


def _of_calls(calls: Sequence[ModelCall]) -> Iterator[tuple[str, Span]]:
    for number, call in enumerate(calls):
        admitted = call.began + call.queued_s
        ended = admitted + call.total_s
        if call.refused is None and 0 < call.status < 400:
            first = ended if call.first_token_s is None else admitted + call.first_token_s
            yield "queue_s", (call.began, admitted)
            yield "model_wait_s", (admitted, first)
            yield "generation_s", (first, ended)
        else:  # it failed, and the agent asks again after a pause
            again = calls[number + 1].began if number + 1 < len(calls) else ended
            yield "queue_s", (call.began, max(ended, again))
