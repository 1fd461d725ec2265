"""What the agent reports, beside what the gateway has counted."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sandboxkit.gateway.model.meter import Sum
    from sandboxkit.usage import Usage

_TOLERANCE: Final = 0.01
_FEW: Final = 10  # tokens
_CENT: Final = 0.0001  # dollars below which nobody cares


def disagreements(usage: Usage, cost_usd: float | None, metered: Sum) -> tuple[str, ...]:
    """Where the two differ, in words; empty where they agree.

    Args:
        usage: Tokens, as the agent reports them.
        cost_usd: Dollars likewise; None where it reports none.
        metered: What the gateway has counted; an unknown price is no disagreement.
    """
    notes: list[str] = []
    if not _alike(usage, metered.usage):
        notes.append(
            f"Claude Code reports other tokens than the gateway has counted: {_said(usage)}; "
            f"the gateway: {_said(metered.usage)}. What other programs in the sandbox asked of "
            "the model is not in its report."
        )
    ours = metered.cost_usd
    if cost_usd is None or ours is None:
        return tuple(notes)
    if abs(cost_usd - ours) > max(_CENT, _TOLERANCE * ours):
        notes.append(
            f"Claude Code reports {cost_usd:.4f} USD, the gateway counts {ours:.4f} USD. The CLI "
            "goes by list prices; the gateway knows your own prices and the premium of a region."
        )
    return tuple(notes)


def _alike(one: Usage, other: Usage) -> bool:
    """Answers that broke off are estimated on both sides, so that they need not be equal."""
    ours, theirs = (astuple(replace(each, cache_creation_1h_tokens=0)) for each in (one, other))
    pairs = zip(ours, theirs, strict=True)
    return all(abs(a - b) <= max(_FEW, _TOLERANCE * max(a, b)) for a, b in pairs)


def _said(usage: Usage) -> str:
    return (
        f"{usage.input_tokens} read, {usage.output_tokens} written, {usage.cache_read_tokens} "
        f"from the cache, {usage.cache_creation_tokens} to the cache"
    )
