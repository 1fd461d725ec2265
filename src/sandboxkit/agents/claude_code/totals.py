"""What a conversation had cost before this CLI took it up.

A CLI that resumes from its own file counts on from the `cost-state` that the last one
left there; one that resumes from a store, or after a crash, begins at nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from sandboxkit.agents.base import Usage

if TYPE_CHECKING:
    from sandboxkit.agents.claude_code.place import Place

_DEADLINE_S = 30.0
_LAST = """
grep -h '^{"type":"cost-state"' "$1"/projects/*/"$2".jsonl 2>/dev/null | tail -n 1
"""


class Totals(NamedTuple):
    """Tokens and cost since a conversation began, as the CLI counts them."""

    usage: Usage = Usage()
    cost_usd: float = 0.0


class _Account(BaseModel):
    inputTokens: NonNegativeInt = 0  # noqa: N815 - the CLI's names
    outputTokens: NonNegativeInt = 0  # noqa: N815
    cacheReadInputTokens: NonNegativeInt = 0  # noqa: N815
    cacheCreationInputTokens: NonNegativeInt = 0  # noqa: N815


class _CostState(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    totalCostUSD: NonNegativeFloat = 0.0  # noqa: N815
    modelUsage: dict[str, _Account] = {}  # noqa: N815


NOTHING: Final = Totals()


def totals_of(models: Mapping[str, Any] | None, cost_usd: float | None) -> Totals:
    """The sum over the CLI's accounts of its models; what is malformed does not count."""
    try:
        state = _CostState.model_validate(
            {"modelUsage": models or {}, "totalCostUSD": cost_usd or 0}
        )
    except ValidationError:
        return NOTHING
    total = Usage()
    for account in state.modelUsage.values():
        total += Usage(
            account.inputTokens,
            account.outputTokens,
            account.cacheReadInputTokens,
            account.cacheCreationInputTokens,
        )
    return Totals(total, state.totalCostUSD)


async def totals_before(place: Place, session_id: str) -> Totals:
    """What the CLI will count on from; nothing where it will begin at nothing."""
    argv = ["sh", "-c", _LAST, "sh", place.config_dir, session_id]
    found = await place.sandbox.exec(argv, user=place.user, cwd="/", timeout_s=_DEADLINE_S)
    try:
        state = _CostState.model_validate_json(found.stdout)
    except ValidationError:  # there is none
        return NOTHING
    return totals_of(state.model_dump()["modelUsage"], state.totalCostUSD)
